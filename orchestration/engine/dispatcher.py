"""What the engine needs from a broker: messages that say that there is work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..model.plan import Plan
from ..store.replies import Dispatch


class Dispatcher(Protocol):
    """Sends a Celery message per dispatch. It may lose or duplicate any of them: the unclaimed index compensates."""

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Send one message per dispatch; never raises. When it returns they are sent, or the log says why not."""

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Like `dispatch`, without waiting for it. Call it on the loop of the dispatcher's portal."""
