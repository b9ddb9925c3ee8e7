"""How an attempt calls user code: with a time limit, cancellable, on the loop or thread where it must run."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Generic, NoReturn, TypeVar

from billiard.common import terminate_handler_fired
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import state as worker_state

from ...orchestration.connection.stopping import is_stopped
from ...orchestration.model.errors import StepTimeoutError
from ...orchestration.model.work_item import Work
from ..context.waits import Waits, unwound_by
from .plain_calls import PlainCalls
from .running import CLOSED, Abandoned, Closing, Running, StepExit
from .time_limit import time_limit

T = TypeVar("T")


class Raised(Exception):
    """Carries a StopIteration that a plain function raised through coroutines, which cannot raise it themselves.

    Attributes:
        error: What the function raised.
    """

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


class _EndingIfForked:
    """Ends a process forked by user code when it leaves that code, because it shares its parent's connections."""

    __slots__ = ("_pid",)

    def __init__(self, pid: int) -> None:
        """Args:
        pid: The process that calls the code.
        """
        self._pid = pid

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if os.getpid() != self._pid:
            code = error.code if isinstance(error, SystemExit) else error and 1
            os._exit(code if isinstance(code, int) else bool(code))


def _stops_the_worker(exit: SystemExit) -> bool:
    """Whether a signal handler of Celery or its pool raised it; a step may raise the same classes itself."""
    is_ending = worker_state.should_stop is not None or worker_state.should_terminate is not None
    return terminate_handler_fired() or (is_ending and isinstance(exit, WorkerShutdown | WorkerTerminate))


class _Failure:
    """An exception as a value: futures and threads change or refuse some exceptions that they carry."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def raise_it(self) -> NoReturn:
        error = self.error
        del self.error
        try:
            if isinstance(error, StopIteration):
                raise Raised(error)
            raise error
        finally:
            del error  # its traceback refers to this frame


class Calling:
    """The calls of one attempt, in sequence: resource factories, then the step."""

    def __init__(
        self,
        work: Work,
        running: Running,
        plain: PlainCalls,
        loop: asyncio.AbstractEventLoop,
        timeout_seconds: float | None,
        *,
        callers_loop: bool = False,
    ) -> None:
        """Args:
        work: What is executed.
        running: How it is cancelled.
        plain: Calls plain functions.
        loop: The loop for coroutines: the running one, or another of this process.
        timeout_seconds: Limit for all calls together, counted from the first one.
        callers_loop: Whether the loop is that of the run's caller, which may close it.
        """
        self.loop, self._is_callers = loop, callers_loop
        self._pid = os.getpid()
        self._work, self._running, self._plain = work, running, plain
        self._seconds = timeout_seconds
        self._deadline: float | None = None

    async def plain(self, function: Callable[[], T]) -> T:
        """Call a plain function and await what it returns.

        Raises:
            StepTimeoutError: The time limit was reached.
            StepExit: The function raised something that is not an Exception.
            Raised: The function raised a StopIteration.
            Exception: Any other exception that it raised.
        """
        left = self._left()

        def call() -> T | _Failure:
            try:
                with _EndingIfForked(self._pid):
                    if left is None:
                        return function()
                    with time_limit(left, self._too_late):
                        return function()
            except SystemExit as exit:
                if _stops_the_worker(exit):
                    raise
                what = f"called sys.exit({exit.code!r})" if type(exit) is SystemExit else f"raised {exit!r}"
                return _Failure(self._exit(what, exit))
            except (Exception, asyncio.CancelledError, Abandoned, Waits) as error:
                self._running.context = contextvars.copy_context()
                return _Failure(error)
            except BaseException as ending:  # no caller would record it: the step would be executed again forever
                if (waiting := _only_waits(ending)) is not None:
                    return _Failure(waiting)
                return _Failure(self._exit(f"raised {ending!r}, which is not an Exception", ending))

        returned = await self._plain.run(call)
        if isinstance(returned, _Failure):
            returned.raise_it()
        return returned

    async def awaited(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call a function on the loop where it must run and await what it returns.

        Raises:
            StepTimeoutError: The time limit was reached.
            StepExit: The function raised something that is not an Exception.
            asyncio.CancelledError: The attempt was cancelled, or the step cancelled itself.
            Abandoned: The loop is being closed.
            Exception: Any other exception that it raised.
        """
        if self.loop is not asyncio.get_running_loop():
            return await self._elsewhere(function)
        driver = asyncio.current_task()
        assert driver is not None
        cancelling = _Cancelling(driver, self.loop)
        self._running.on_cancel(cancelling.cancel)
        self._plain.on_interrupt = cancelling.interrupt
        try:
            return await self._body(function)
        except asyncio.CancelledError:
            if cancelling.error is not None:
                raise cancelling.error from None
            raise
        finally:
            self._plain.on_interrupt = None
            self._running.on_cancel(None)
            cancelling.settle()

    async def _body(self, function: Callable[[], Awaitable[T]]) -> T:
        limit = None if self._seconds is None else asyncio.timeout(self._left())
        try:
            with _EndingIfForked(self._pid):
                if limit is None:
                    return await function()
                async with limit:
                    return await function()
        except TimeoutError:
            self._running.context = contextvars.copy_context()
            if limit is not None and limit.expired():
                raise StepTimeoutError(self._too_late) from None
            raise
        except (Exception, asyncio.CancelledError, Abandoned, Waits):
            self._running.context = contextvars.copy_context()
            raise
        except BaseExceptionGroup as group:  # an ExceptionGroup is an Exception
            self._running.context = contextvars.copy_context()
            cause = unwound_by(group)
            if isinstance(cause, Exception | Waits):
                raise cause from None
            raise StepExit(f"step {self._work.step!r} raised {cause!r}, which is not an Exception") from group
        except BaseException as ending:  # asyncio would let SystemExit and KeyboardInterrupt end the loop itself
            if not self.loop.is_running():  # Python closes the coroutines that are left on a closed loop
                raise
            if (waiting := _only_waits(ending)) is not None:
                raise waiting from None
            raise self._exit(f"raised {ending!r}, which is not an Exception", ending) from ending

    async def _elsewhere(self, function: Callable[[], Awaitable[T]]) -> T:
        """`awaited` on another loop of this process, which may be closed before, while and after the step runs."""
        is_asked = False
        body: Coroutine[Any, Any, T] | None = None

        async def guarded() -> T | _Failure:
            nonlocal body
            body = self._body(function)
            try:
                # In its own task, which the step may cancel; closing the loop cancels the surrounding task as well.
                return await asyncio.ensure_future(body)
            except Exception as error:
                return _Failure(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                is_closing = self._is_callers or is_stopped(task)
                if task.cancelling() and not is_asked and is_closing:
                    # As a value: asyncio.run() reports the exceptions of tasks when it closes its loop.
                    return _Failure(Abandoned(CLOSED))
                raise

        coroutine = guarded()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise Abandoned(CLOSED) from None

        def cancel() -> None:
            nonlocal is_asked
            is_asked = True
            if not self.loop.is_closed():
                future.cancel()

        interruption: BaseException | None = None

        def interrupt(error: BaseException) -> bool:
            nonlocal interruption
            if not isinstance(error, Exception):
                return False
            interruption = error
            cancel()
            return True

        self._running.on_cancel(cancel)
        self._plain.on_interrupt = interrupt
        outcome = asyncio.wrap_future(future)
        closing = Closing(self.loop, outcome, future) if self._is_callers else None
        try:
            returned = await outcome
        except asyncio.CancelledError:
            if interruption is not None:
                raise interruption from None
            task = asyncio.current_task()
            if body is not None or is_asked or task is None or task.cancelling():
                raise
            raise Abandoned(CLOSED) from None  # what cancels a task before it begins does not come from the step
        finally:
            self._plain.on_interrupt = None
            self._running.on_cancel(None)
            if closing is not None:
                closing.ignore()
            if self.loop.is_closed():  # Python warns of coroutines that were never awaited
                for each in (coroutine, body):
                    if each is not None and getcoroutinestate(each) == CORO_CREATED:
                        each.close()
        if isinstance(returned, _Failure):
            returned.raise_it()
        return returned

    def _exit(self, what: str, cause: BaseException) -> StepExit:
        exit = StepExit(f"step {self._work.step!r} {what}")
        exit.__cause__ = cause
        return exit

    @property
    def _too_late(self) -> str:
        work = self._work
        return f"Step {work.step!r} of run {work.run_id!r} took longer than its timeout of {self._seconds} s."

    def _left(self) -> float | None:
        if self._seconds is None:
            return None
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if self._deadline <= now:
            raise StepTimeoutError(self._too_late)
        return self._deadline - now


def _only_waits(error: BaseException) -> Waits | None:
    """The first wait in a group that contains only waits, as an `asyncio.TaskGroup` raises it; else None."""
    if not isinstance(error, BaseExceptionGroup):
        return None
    waits, others = error.split(Waits)
    if waits is None or others is not None:
        return None
    first: BaseException = waits
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, Waits) else None


class _Cancelling:
    """Cancels the step that a task is executing, but not what the task does afterwards. May be used from any thread."""

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._task, self._loop = task, loop
        self._is_over = self._has_cancelled = False
        self.error: BaseException | None = None

    def cancel(self) -> None:
        """Cancel the step."""
        self._loop.call_soon_threadsafe(self._cancel)

    def interrupt(self, error: BaseException) -> bool:
        """Let the step fail with what was raised in the thread that waits for it; False if that is no Exception."""
        if not isinstance(error, Exception):
            return False
        self._loop.call_soon_threadsafe(self._cancel, error)
        return True

    def settle(self) -> None:
        """The step has ended: undo its cancellation, so that the task continues unless something else cancelled it."""
        self._is_over = True
        if self._has_cancelled:
            self._task.uncancel()

    def _cancel(self, error: BaseException | None = None) -> None:
        if not self._is_over and not self._has_cancelled:
            self.error = error
            self._has_cancelled = True
            self._task.cancel()


class Isolated(Generic[T]):
    """`await Isolated(coroutine)`: values that the coroutine sets in context variables are not visible outside.

    A task would do the same but cost two turns of the event loop. Consecutive steps in one task must not see each
    other's context variables.
    """

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Args:
        coroutine: One that has not started.
        """
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        run = contextvars.copy_context().run
        resume, value = coroutine.send, None
        while True:
            try:
                yielded = run(resume, value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                resume, value = coroutine.send, (yield yielded)
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:
                resume, value = coroutine.throw, error
