"""Where plain `def` steps and factories are called: in a pool's thread, or in the one that waits for the attempt."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor as Threads
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class PlainCalls(Protocol):
    """Calls plain functions for coroutines."""

    #: Called with what interrupts the thread that waits for the attempt (Celery's soft time limit); whether that has
    #: been dealt with. None where nobody waits.
    on_interrupt: Callable[[BaseException], bool] | None

    async def run(self, function: Callable[[], T]) -> T:
        """Call it, in the current context, and await what it returns or raises."""


class ThreadCalls:
    """Calls plain functions in the threads of a pool."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.on_interrupt: Callable[[BaseException], bool] | None = None

    async def run(self, function: Callable[[], Any]) -> Any:
        """See `PlainCalls.run`."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, function)
