"""A time limit for synchronous step code: raises `StepTimeoutError` inside it.

On the main thread a timer signal interrupts even a blocking system call. On other threads the exception is raised
when the thread next executes Python code. A call that blocks inside C is not interrupted; the run is then saved by the
work item's durable deadline (see `lua/deadline.lua`).
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ...orchestration.model.errors import StepTimeoutError


@contextmanager
def time_limit(seconds: float | None, text: str) -> Iterator[None]:
    """Run the block for at most `seconds`.

    Raises:
        StepTimeoutError: The time limit was reached; the message is `text`.
    """
    if seconds is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _by_signal(seconds, text):
            yield
    else:
        with _by_async_exception(seconds, text):
            yield


@contextmanager
def _by_signal(seconds: float, text: str) -> Iterator[None]:
    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise StepTimeoutError(text)

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _by_async_exception(seconds: float, text: str) -> Iterator[None]:
    target = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    over = False

    class Expired(StepTimeoutError):
        """Carries the text: an asynchronous exception is raised by class, without arguments."""

        def __init__(self) -> None:
            super().__init__(text)

    def expire() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(Expired))

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Expired:
        raise StepTimeoutError(text) from None
    finally:
        with lock:
            over = True
        timer.cancel()
