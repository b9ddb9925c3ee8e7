"""What the engine needs from a broker: messages that say that there is work."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ..model.errors import UmbelError
from ..model.plan import Plan
from ..store.replies import Dispatch

logger = logging.getLogger("umbel.dispatch")


class Dispatcher(Protocol):
    """Sends a Celery message per dispatch. It may lose or duplicate any of them: the unclaimed index compensates."""

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Send one message per dispatch; never raises. When it returns they are sent, or the log says why not."""

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        """Like `dispatch`, without waiting for it. Call it on the loop of the dispatcher's portal."""


async def dispatch_applied(
    dispatcher: Dispatcher, plan: Callable[[], Awaitable[Plan]], dispatches: Sequence[Dispatch]
) -> None:
    """Send the messages for work that an applied change made ready.

    Never raises: the change is in Redis and must not appear to have failed. The sweep redispatches what was not sent.

    Args:
        dispatcher: Sends them.
        plan: Reads the plan of the run.
        dispatches: The work.
    """
    if not dispatches:
        return
    try:
        read = await plan()
    except UmbelError as error:
        text, about = "%d messages were not sent (%s); the sweep redispatches", {"action": "dispatch_failed"}
        logger.warning(text, len(dispatches), error, extra=about)
    else:
        await dispatcher.dispatch(read, dispatches)
