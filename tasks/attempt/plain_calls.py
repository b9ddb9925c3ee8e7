"""Where plain `def` steps and factories are called: in a pool's thread, or in the thread that waits for the attempt."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor as Threads
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class PlainCalls(Protocol):
    """Calls plain functions for coroutines."""

    #: Called with the exception that interrupts the thread waiting for the attempt (Celery's soft time limit); returns
    #: whether it was handled. None unless `async def` code of the attempt is running.
    on_interrupt: Callable[[BaseException], bool] | None

    async def run(self, function: Callable[[], T]) -> T:
        """Call the function in the current context, and return or raise what it does."""


class ThreadCalls:
    """Calls plain functions in the threads of a pool."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.on_interrupt: Callable[[BaseException], bool] | None = None

    async def run(self, function: Callable[[], Any]) -> Any:
        """See `PlainCalls.run`."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, function)
