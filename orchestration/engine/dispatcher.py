"""What the engine needs of a broker: messages that say that there is work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..model.plan import Plan
from ..store.replies import Dispatch


class Dispatcher(Protocol):
    """Sends a Celery message per dispatch. May lose or double any of them: the unclaimed index makes up for it."""

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Send one message per dispatch; never raises. When it returns they are sent, or the log says why not."""

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """The same without waiting for it. To be called on the loop of the dispatcher's portal."""
