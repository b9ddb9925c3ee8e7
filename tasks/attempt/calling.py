"""How one attempt calls a user's code: on the thread or the event loop it belongs to, within its time, cancellable."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ...orchestration.model.errors import StepTimeoutError
from ..resources.resolution import Call, Wait
from .running import Abandoned
from .time_limit import time_limit

OnCancel = Callable[[Callable[[], None] | None], None]


class StepExit(RuntimeError):
    """A step raised what is no `Exception` and would end more than it (`sys.exit()`); it ends only the attempt."""


def over(step: str, run_id: str, timeout_seconds: float | None) -> str:
    """What an attempt that took too long is told."""
    return f"Step {step!r} of run {run_id!r} took longer than its timeout of {timeout_seconds} s."


class _Stop:
    """Cancels a call on a loop, and remembers that it was asked to."""

    def __init__(self) -> None:
        self.asked = False
        self.future: concurrent.futures.Future[Any] | None = None

    def __call__(self) -> None:
        self.asked = True
        future = self.future
        if future is not None:
            future.cancel()


class Calling:
    """The calls of one attempt, one after the other. They block the thread of the attempt."""

    def __init__(
        self,
        step: str,
        run_id: str,
        *,
        timeout_seconds: float | None,
        loop: Callable[[], asyncio.AbstractEventLoop],
        on_cancel: OnCancel,
    ) -> None:
        """Args:
        step: For messages.
        run_id: For messages.
        timeout_seconds: Limit of all calls together, from the first one on.
        loop: The event loop for coroutines.
        on_cancel: Takes a function that stops the call from another thread, None when there is nothing to stop.
        """
        self.loop = loop
        self._step, self._on_cancel = step, on_cancel
        self._seconds = timeout_seconds
        self._deadline: float | None = None
        self._over = over(step, run_id, timeout_seconds)

    def here(self, function: Callable[[], Any]) -> Any:
        """Call a plain function on this thread.

        Raises:
            StepTimeoutError: Time is up.
            Exception: Whatever it raised.
        """
        with time_limit(self._left(), self._over):
            return function()

    def on_loop(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Call a function on the loop and await what it gives.

        Raises:
            StepTimeoutError: Time is up.
            StepExit: It raised SystemExit or KeyboardInterrupt.
            concurrent.futures.CancelledError: The attempt was cancelled.
            Abandoned: The loop is being closed.
            Exception: Whatever it raised.
        """
        seconds = self._left()
        stop = _Stop()

        async def body() -> Any:
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await function()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling() and not stop.asked:
                    raise Abandoned("the event loop it was executed on is being closed") from None
                raise
            except TimeoutError:
                if limit.expired():
                    raise StepTimeoutError(self._over) from None
                raise
            except (SystemExit, KeyboardInterrupt) as exit:  # asyncio would let these end the loop itself
                raise StepExit(f"step {self._step!r} raised {exit!r}") from exit

        stop.future = asyncio.run_coroutine_threadsafe(body(), self.loop())
        self._on_cancel(stop)
        try:
            return stop.future.result()
        finally:
            self._on_cancel(None)
            stop.future = None  # it holds the exception, whose traceback holds this frame

    def make(self, asked: Call | Wait) -> Any:
        """Do what the making of a resource asks for."""
        match asked:
            case Wait(future):
                return self._wait(future)
            case Call(make=make, is_async=True):
                return self.on_loop(make)
            case Call(make=make):
                return self.here(make)

    def _wait(self, future: concurrent.futures.Future[Any]) -> None:
        woken = threading.Event()
        future.add_done_callback(lambda _: woken.set())
        self._on_cancel(woken.set)
        try:
            in_time = woken.wait(self._left())
        finally:
            self._on_cancel(None)
        if not in_time:
            raise StepTimeoutError(self._over)
        if not future.done():
            raise concurrent.futures.CancelledError

    def _left(self) -> float | None:
        if self._seconds is None:
            return None
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if self._deadline <= now:
            raise StepTimeoutError(self._over)
        return self._deadline - now
