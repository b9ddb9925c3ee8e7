"""How one execution in the asyncio pool is interrupted: by a time limit, or because it is stopped.

A coroutine is ended by asyncio's own cancellation. A soft limit is raised in it as an exception that is both a
`SoftTimeLimitExceeded` and a `CancelledError`. Because it is the latter, `TaskGroup`, `wait_for` and `finally` blocks
of libraries clean up. Because it is the former, the task may catch it and continue.

A plain function is ended by an exception raised in its thread (`PyThreadState_SetAsyncExc`), which arrives between two
bytecodes: at once in Python code, but only after a blocking call (`time.sleep`, a socket, a query) has returned.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded


class SoftLimitReached(SoftTimeLimitExceeded, asyncio.CancelledError):  # type: ignore[misc]  # Celery is untyped
    """Raised in a coroutine when its soft time limit is reached."""


class Stopped(BaseException):
    """Raised in a plain function when it is to end; `except Exception` does not catch it."""


class SoftLimit:
    """Awaits a coroutine in which a soft limit may be raised."""

    __slots__ = ("_coroutine", "_seconds", "_task")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._seconds: float | None = None
        self._task: asyncio.Task[Any] | None = None

    def reach(self, seconds: float) -> None:
        """Raise the limit's exception where the coroutine waits; must be called in the loop's thread."""
        if self._task is not None:
            self._seconds = seconds
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        self._task = asyncio.current_task()
        coroutine = self._coroutine
        error: BaseException | None = None
        try:
            while True:
                try:
                    awaited = coroutine.send(None) if error is None else coroutine.throw(error)
                except StopIteration as stop:
                    return stop.value
                error = None
                try:
                    yield awaited
                except asyncio.CancelledError as cancelled:
                    error = cancelled if self._seconds is None else self._reached()
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as raised:
                    error = raised
        finally:
            self._task = error = None

    def _reached(self) -> SoftLimitReached:
        assert self._task is not None
        self._task.uncancel()  # this was not a cancellation: a task that catches the exception continues
        seconds, self._seconds = self._seconds, None
        return SoftLimitReached(seconds)


class InterruptibleThread:
    """One job in a thread, which may be interrupted only while that job runs."""

    __slots__ = ("_guard", "_thread_id")

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._thread_id: int | None = None

    def call(self, function: Callable[[], Any]) -> Any:
        """Call the function so that `interrupt` reaches it, but nothing that this thread does later."""
        self._thread_id = threading.get_ident()
        try:
            return function()
        finally:
            while self._thread_id is not None:
                try:
                    with self._guard:
                        _raise_in(self._thread_id, None)  # an exception that has not arrived yet must not arrive
                        self._thread_id = None
                except BaseException:  # a pending exception arrived right here; the job is over, so drop it
                    continue

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise an exception in the job; does nothing when it is over."""
        with self._guard:
            if self._thread_id is not None:
                _raise_in(self._thread_id, error)


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    what = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), what)
