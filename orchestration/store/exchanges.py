"""One procedure, two colours: code that talks to Redis and waits, written once, run by a coroutine or by a thread.

A procedure is a generator that yields what it wants done: an `Exchange` with Redis, a `Pause`, a wait for a `Signal`.
`run_blocking` does it on the spot. `run_async` does exchanges in a few threads of its own and waits on the event loop,
so nothing blocks the loop and a thousand waiters take no thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

#: Exchanges that are in flight at once, per process. They take a millisecond each and never wait for one another.
_THREADS = 8


class Signal(Protocol):
    """Something that a procedure waits for."""

    def set(self) -> None:
        """Let it happen; from any thread.

        Raises:
            RuntimeError: The event loop that waited for it is closed.
        """


@dataclass(frozen=True, slots=True)
class Exchange:
    """Call this, and hand back what it returns. It blocks for as long as Redis takes."""

    call: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NewSignal:
    """Hand back a `Signal`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the signal is set, or the time is over."""

    signal: Signal
    seconds: float


Request: TypeAlias = Exchange | Pause | NewSignal | Wait
Procedure: TypeAlias = Generator[Request, Any, T]


class _ThreadSignal:
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)


class _LoopSignal:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


def run_blocking(procedure: Procedure[T]) -> T:
    """Carry out a procedure in this thread."""
    resume, value = _begin(procedure)
    try:
        while True:
            request = resume(value)
            try:
                resume, value = procedure.send, _do(request)
            except BaseException as error:  # the procedure puts things in order, then lets it pass
                resume, value = procedure.throw, error
    except StopIteration as end:
        result: T = end.value
        return result
    except BaseException:
        _unwind(procedure)
        raise


async def run_async(procedure: Procedure[T]) -> T:
    """Carry out a procedure on the running event loop.

    A cancellation reaches the procedure only between exchanges: one that is in flight is waited for, so that its
    outcome is never in doubt.
    """
    resume, value = _begin(procedure)
    try:
        while True:
            request = resume(value)
            try:
                resume, value = procedure.send, await _do_async(request)
            except GeneratorExit:  # nobody awaits this any more, so nothing more can be exchanged
                raise
            except BaseException as error:  # the procedure puts things in order, then lets it pass
                resume, value = procedure.throw, error
    except StopIteration as end:
        result: T = end.value
        return result
    except BaseException:
        _unwind(procedure)
        raise


def _begin(procedure: Procedure[Any]) -> tuple[Callable[[Any], Request], Any]:
    return procedure.send, None


def _unwind(procedure: Procedure[Any]) -> None:
    """Let a procedure that cannot go on put in order what needs no exchange. One that has ended takes no notice."""
    with suppress(GeneratorExit, StopIteration):
        while True:
            procedure.throw(GeneratorExit())


def _do(request: Request) -> Any:
    if isinstance(request, Exchange):
        return request.call()
    if isinstance(request, NewSignal):
        return _ThreadSignal()
    if isinstance(request, Pause):
        return time.sleep(request.seconds)
    assert isinstance(request.signal, _ThreadSignal)
    return request.signal.wait(request.seconds)


async def _do_async(request: Request) -> Any:
    if isinstance(request, Exchange):
        return await _in_thread(request.call)
    if isinstance(request, NewSignal):
        return _LoopSignal()
    if isinstance(request, Pause):
        return await asyncio.sleep(request.seconds)
    assert isinstance(request.signal, _LoopSignal)
    return await request.signal.wait(request.seconds)


async def _in_thread(call: Callable[[], T]) -> T:
    future = asyncio.get_running_loop().run_in_executor(_threads(), call)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # looked at, or asyncio reports it as never retrieved
        raise cancelled
    return future.result()


_executor: ThreadPoolExecutor | None = None
_executor_mutex = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    """Threads of our own: asyncio's are the user's to fill with blocking calls."""
    global _executor
    with _executor_mutex:
        if _executor is None:
            _executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="umbel-state")
        return _executor


def _begin_anew() -> None:
    """A forked child has none of its parent's threads."""
    global _executor, _executor_mutex
    _executor, _executor_mutex = None, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
