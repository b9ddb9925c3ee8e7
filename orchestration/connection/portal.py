"""Calls from blocking code, and from other event loops, to the coroutines of this package.

Everything that talks to Redis is a coroutine. A portal provides the loop they run on: the loop of an asyncio worker, or
one in a daemon thread of its own, which the first call starts. A forked child starts its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from .stopping import mark_stopped, stop

T = TypeVar("T")

logger = logging.getLogger("umbel.portal")

#: How long `close` waits for the loop's thread.
_CLOSE_SECONDS = 5.0


class Portal:
    """Runs coroutines on one loop for callers anywhere. Safe to use from any thread and any event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Args:
        name: Name of the thread.
        loop: A running loop to use, which the portal does not own; by default the portal starts its own.
        """
        self._name = name
        self._given = loop
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._begin_anew()
        _portals.add(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._own: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closers.clear()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; started if there is none yet."""
        if self._given is not None:
            return self._given
        return self._own or self._started()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._own is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(loop,), name=self._name, daemon=True)
                contextvars.Context().run(self._thread.start)  # not in the caller's context
                self._own = loop
            return self._own

    # -- calling ---------------------------------------------------------------------------------------------------

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule a coroutine on the loop, in the caller's context; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and block until it has ended.

        An exception raised in the waiting thread meanwhile (KeyboardInterrupt, a time limit) cancels the coroutine.

        Raises:
            RuntimeError: Called on the portal's own loop, which would wait for itself.
            Exception: What the coroutine raised.
        """
        if self.is_here():
            coroutine.close()
            raise self._would_wait_for_itself()
        return _Call(coroutine, self.loop).result()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the portal's loop, from any loop."""
        if self.is_here():
            return await coroutine
        return await asyncio.wrap_future(self.submit(coroutine))

    async def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Like `run`, except that a cancellation is raised only after the coroutine has ended.

        When the caller continues, the coroutine's work is either done or not done, never in progress.
        """
        here = self.is_here()
        future = asyncio.ensure_future(coroutine) if here else asyncio.wrap_future(self.submit(coroutine))
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return future.result()
        if not future.cancelled():
            future.exception()  # retrieved, or asyncio logs that it never was
        raise cancelled

    def serve(self, begin: Callable[[CallerThread], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine that may call plain functions in this thread, which blocks until it has ended.

        Args:
            begin: Makes the coroutine from an object that calls functions in this thread.

        Raises:
            RuntimeError: Called on the portal's own loop, which would wait for itself.
            Exception: What the coroutine raised.
        """
        if self.is_here():
            raise self._would_wait_for_itself()
        caller = CallerThread()
        future = self.submit(caller.served(begin))
        future.add_done_callback(caller.end)
        caller.work(future)
        try:
            return future.result()
        finally:
            del future, caller  # no reference cycle: an error's traceback refers to this frame

    def is_here(self) -> bool:
        """Whether the calling code runs on the portal's loop."""
        try:
            return asyncio.get_running_loop() is (self._given or self._own)
        except RuntimeError:
            return False

    def _would_wait_for_itself(self) -> RuntimeError:
        return RuntimeError(f"A blocking call was made on the event loop it needs ({self._name}). Await it instead.")

    # -- closing ---------------------------------------------------------------------------------------------------

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Register a function to call and await on the loop when the portal closes."""
        self._closers.append(close)

    def close(self) -> None:
        """Run the `on_close` functions; then cancel all tasks and end the thread, unless the loop was passed in."""
        if self._given is None and self._own is None:
            return
        if not self.loop.is_closed() and self.loop.is_running():
            with contextlib.suppress(TimeoutError, CancelledError):  # a step may block the loop
                self.submit(self._close()).result(_CLOSE_SECONDS)
        with self._lock:
            loop, thread, self._own, self._thread = self._own, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(_stop, loop)
            thread.join(_CLOSE_SECONDS)
            if not thread.is_alive():
                loop.close()

    async def _close(self) -> None:
        while self._closers:
            await self._closers.pop()()
        if self._given is not None:
            return
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            stop(task)
        if left:
            await asyncio.wait(left, timeout=_CLOSE_SECONDS / 2)
        await asyncio.get_running_loop().shutdown_asyncgens()


class _Call(Generic[T]):
    """One coroutine that a blocked thread waits for: like a future with one waiter, at half the cost."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine, self._loop = coroutine, loop
        self._is_cancelled = False
        self._task: asyncio.Task[T] | None = None
        self._running = threading.Lock()
        self._running.acquire()

    def _begin(self) -> None:
        if self._is_cancelled:
            self._coroutine.close()
        else:
            self._task = self._loop.create_task(self._coroutine)
            self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved here: the thread may have been interrupted
        self._running.release()

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()

    def result(self) -> T:
        """Run it and block until it has ended.

        Raises:
            CancelledError: It was cancelled.
            BaseException: What interrupted the thread, which cancels the coroutine; or what the coroutine raised.
        """
        try:
            self._loop.call_soon_threadsafe(self._begin)  # in the `try`: an interrupt may follow at once
            self._running.acquire()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._cancel)
            raise
        assert self._task is not None  # it has ended
        try:
            if self._task.cancelled():
                raise CancelledError
            return self._task.result()
        finally:
            self._task = None  # no reference cycle: an error's traceback refers to this frame


class CallerThread:
    """A blocked thread that calls plain functions for the coroutine it waits for."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        #: Called with what interrupts the waiting thread (a time limit, Ctrl-C). Unless it returns True, the coroutine
        #: is cancelled.
        self.on_interrupt: Callable[[BaseException], bool] | None = None
        self._task: asyncio.Task[Any] | None = None

    async def served(self, begin: Callable[[CallerThread], Coroutine[Any, Any, T]]) -> T:
        """Await the coroutine that this thread waits for."""
        self._task = asyncio.current_task()
        try:
            return await begin(self)
        finally:
            self._task = None

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in the blocked thread and await what it returns or raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        self._jobs.put(partial(_call_for, loop, done, function))
        try:
            return await done
        finally:
            del done  # no reference cycle: an error's traceback refers to this frame

    def end(self, _: object = None) -> None:
        """Release the thread."""
        self._jobs.put(None)

    def work(self, future: Future[Any]) -> None:
        """Run the functions that are passed to `run`, until `end`.

        Raises:
            BaseException: What interrupted the thread, unless `on_interrupt` has dealt with it.
        """
        while True:
            try:
                job = self._jobs.get()
                if job is None:
                    return
                job()
            except BaseException as error:
                if self.on_interrupt is not None and self.on_interrupt(error):
                    continue
                if (task := self._task) is not None:
                    mark_stopped(task)
                future.cancel()
                raise


def _call_for(loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], function: Callable[[], T]) -> None:
    try:
        # In a copy of the thread's context: what a step sets there must not reach the next one.
        result = contextvars.copy_context().run(function)
    except (KeyboardInterrupt, SystemExit):  # in a task they would end the loop; here they end the wait
        raise
    except BaseException as error:
        _settle_soon(loop, done, None, error)
    else:
        _settle_soon(loop, done, result, None)
    finally:
        del done  # no reference cycle: the error's traceback refers to this frame, too


def _settle_soon(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):  # a future refuses to carry it
            future.set_exception(RuntimeError(f"raised {error!r}"))
        else:
            future.set_exception(error)

    loop.call_soon_threadsafe(settle)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until its portal closes, even if a step stops it or calls `sys.exit()` in a task of its own."""
    while loop not in _ending:
        try:
            loop.run_forever()
        except BaseException as error:
            logger.error("a task raised %r, which would end the event loop", error, extra={"action": "loop_error"})


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel tasks that began while the portal closed, so that no caller waits for them, then stop the loop."""
    _ending.add(loop)
    for task in asyncio.all_tasks(loop):
        stop(task)
    loop.call_soon(loop.call_soon, loop.stop)


_portals: WeakSet[Portal] = WeakSet()
_ending: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def _begin_anew_in_child() -> None:
    for portal in list(_portals):
        portal._given = None
        portal._begin_anew()


os.register_at_fork(after_in_child=_begin_anew_in_child)
