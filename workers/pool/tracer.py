"""Executes one coroutine task exactly as Celery executes a plain one: the same hooks, signals, results and order.

The counterpart of `build_tracer` (celery/app/trace.py:323), which calls the task's function inside a closure and so
cannot await it. What is the same for every execution of a task is looked up once; disabled features cost nothing.

Hooks and signals run in the loop's thread. Calls to a result backend or to the broker run in a separate thread, so
that a slow one does not block the loop. If there is a result backend, `on_failure` and `on_retry` run there too,
because Celery ties them to storing the result.
"""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package, but not all of it is annotated.

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import ContextVar
from inspect import isawaitable, iscoroutinefunction
from time import monotonic
from typing import Any

import celery
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import group, signals
from celery._state import _task_stack
from celery.app import trace as stock
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.canvas import maybe_signature
from celery.exceptions import BackendGetMetaError, Ignore, InvalidTaskError, Reject, Retry, SoftTimeLimitExceeded
from celery.loaders.base import BaseLoader
from celery.result import AsyncResult
from celery.states import FAILURE, IGNORED, REJECTED, RETRY, STARTED, SUCCESS
from celery.utils.saferepr import saferepr
from kombu.exceptions import EncodeError, OperationalError
from kombu.utils.encoding import safe_repr

from .interrupts import SoftLimit, SoftLimitReached
from .job import Job, TaskOutcome, ended_abruptly
from .lazy_request import DirectRequest, LazyTaskRequest, TaskRequest, sends_task_events

logger = stock.logger


class _Failure(stock.TraceInfo):  # type: ignore[misc]  # Celery is untyped
    """Celery's handling of an exception, but without clearing the frames in its traceback.

    Several tasks may have received the same exception, whose traceback then has frames of all of them. Clearing the
    frame of a task that is waiting for something else would close its coroutine (up to Python 3.12).
    """

    __slots__ = ()

    def _log_error(self, task: Any, request: Any, info: Any) -> None:
        error = info.exception
        super()._log_error(task, request, info)
        for each in (error, getattr(error, "exc", None), self.retval):
            if isinstance(each, BaseException) and not isinstance(each, ExceptionWithTraceback):
                each.__traceback__ = None


class AsyncTracer:
    """Executes messages of one task."""

    def __init__(self, task: Any, app: celery.Celery, hostname: str, threads: Executor) -> None:
        """Look up what all executions share.

        Args:
            task: A task for which `is_async` holds.
            app: Its app.
            hostname: The worker's name.
            threads: The threads that store results and send messages.
        """
        self.task, self.app, self._threads = task, app, threads
        self._call, self._protected = _function_of(task)
        self._about_me = {"pid": os.getpid(), "hostname": hostname}
        self._before_start = _custom(task, "before_start")
        self._on_success = _custom(task, "on_success")
        self._after_return = _custom(task, "after_return")
        self._on_init = _overridden(app.loader, BaseLoader, "on_task_init")
        self._on_cleanup = _overridden(app.loader, BaseLoader, "on_process_cleanup")
        self._cleanup_backend = _overridden(task.backend, DisabledBackend, "process_cleanup")
        self._stores = not isinstance(task.backend, DisabledBackend)
        self._logs_success = logger.isEnabledFor(getattr(task, "log_level", logging.INFO))  # umbel's steps: DEBUG
        self._inherits_priority = app.conf.task_inherit_parent_priority
        self._skips_done = (
            (app.conf.task_acks_late or task.acks_late)
            and app.conf.worker_deduplicate_successful_tasks
            and task.backend.persistent
        )

    @property
    def is_plain(self) -> bool:
        """Whether neither the app nor the task has hooks of its own around the task's function."""
        hooks = (self._before_start, self._on_success, self._after_return, self._on_init, self._on_cleanup)
        return not any((*hooks, _custom(self.task, "on_failure"), _custom(self.task, "on_retry"), self._skips_done))

    async def trace(self, job: Job) -> TaskOutcome:
        """Execute one message.

        Raises:
            asyncio.CancelledError: The job was stopped; Celery knows its outcome already.
            Reject: A hook refused the message.
        """
        task, message = self.task, job.request
        assert message is not None
        uuid = message.id
        args, kwargs, embedded = message._payload  # decoded when it arrived; other pools decode it again
        request = failure = result = state = text = runtime = None
        started = monotonic()
        try:
            if not hasattr(kwargs, "items"):
                raise InvalidTaskError("Task keyword arguments is not a mapping")
            request = self._request_of(message, embedded or {})
            stores = self._stores and not message.ignore_result
            if self._skips_done and await self._is_done(request):
                return 0, None, None
            _task_stack.push(task)
            task.request_stack.push(request)
            try:
                if signals.task_prerun.receivers:
                    signals.task_prerun.send(sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs)
                if self._on_init is not None:
                    self._on_init(uuid, task)
                if stores and task.track_started:
                    await self._aside(task.backend.store_result, uuid, self._about_me, STARTED, request=request)
                try:
                    if self._before_start is not None:
                        self._before_start(uuid, args, kwargs)
                    result = await self._body(job, args, kwargs)
                    state = SUCCESS
                except Reject as error:
                    failure, state, result = _Failure(REJECTED, error), REJECTED, error
                    text = ExceptionInfo(internal=True)
                    failure.handle_reject(task, request)
                except Ignore as error:
                    failure, state, result = _Failure(IGNORED, error), IGNORED, error
                    text = ExceptionInfo(internal=True)
                    failure.handle_ignore(task, request)
                except Retry as error:
                    failure, state, result = _Failure(RETRY, error), RETRY, error
                    text = await self._fail(request, failure, call_errbacks=False)
                except BaseException as error:
                    problem = _counted_as(job, error)
                    failure, state, result = _Failure(FAILURE, problem), FAILURE, problem
                    text = await self._fail(request, failure)
                else:
                    sent = False
                    try:
                        is_untouched = type(request) is LazyTaskRequest  # never read, so nothing is linked
                        if not is_untouched and (request.callbacks or request.chain):
                            await self._aside(self._send_next, request, result)
                        sent = True
                        if stores or (not is_untouched and request.chord):
                            await self._aside(task.backend.mark_as_done, uuid, result, request, stores)
                    except (EncodeError, OperationalError) as error:
                        if sent and isinstance(error, OperationalError):
                            raise
                        failure, state, result = _Failure(FAILURE, error), FAILURE, error
                        text = await self._fail(request, failure)
                    else:
                        runtime = monotonic() - started
                        if self._logs_success or sends_task_events(message.eventer):
                            text = saferepr(result, task.resultrepr_maxsize)
                        if self._on_success is not None:
                            self._hook(request, "on_success", self._on_success, result, uuid, args, kwargs)
                        if signals.task_success.receivers:
                            signals.task_success.send(sender=task, result=result, runtime=runtime)
                        if self._logs_success:
                            self._log_success(request, text, runtime)
                if self._after_return is not None and state not in stock.IGNORE_STATES:
                    self._hook(request, "after_return", self._after_return, state, result, uuid, args, kwargs, None)
            finally:
                try:
                    if signals.task_postrun.receivers:
                        signals.task_postrun.send(
                            sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs, retval=result, state=state
                        )
                finally:
                    _task_stack.pop()
                    task.request_stack.pop()
                    self._clean_up()
        except (MemoryError, Reject):
            raise
        except Exception as error:
            stock._signal_internal_error(task, uuid, args, kwargs, message.request_dict, error)
            text = stock.report_internal_error(task, error)
            failure = _Failure(FAILURE, error)
            if request is not None:
                await self._fail(request, failure)
        return (0, text, runtime) if failure is None else (1, text, runtime)

    def _request_of(self, message: Any, embedded: dict[str, Any]) -> TaskRequest:
        if isinstance(message, DirectRequest):
            return message.task_request(self._protected)
        return TaskRequest(message.request_dict, called_directly=False, _protected=self._protected, **embedded)

    async def _body(self, job: Job, args: Any, kwargs: Any) -> Any:
        if job.stopped_at is not None:
            raise asyncio.CancelledError
        job.in_body = True
        try:
            if job.soft_seconds is None:
                result = await self._call(*args, **kwargs)
            else:
                job.soft_limit = SoftLimit(self._call(*args, **kwargs))
                result = await job.soft_limit
            if job.timed_out:
                raise asyncio.CancelledError  # the task was reported as failed already
            return result
        finally:
            job.in_body = False
            for timer in job.timers:
                timer.cancel()

    async def _aside(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a blocking function in a thread, with the same `self.request`."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: context.run(function, *args, **kwargs)
        )

    async def _fail(self, request: Context, failure: _Failure, *, call_errbacks: bool = True) -> Any:
        error = failure.retval
        traceback = error.__traceback__

        def handle() -> Any:
            try:
                raise error  # Celery reads sys.exc_info(), which is per thread
            except BaseException:
                error.__traceback__ = traceback
                return failure.handle_error_state(self.task, request, call_errbacks=call_errbacks)

        if self._stores or (call_errbacks and request.errbacks):
            return await self._aside(handle)
        return handle()

    def _send_next(self, request: Context, result: Any) -> None:
        """Send the tasks that this one is linked and chained to."""
        options = {
            "parent_id": request.id,
            "root_id": request.root_id or request.id,
            "priority": (request.delivery_info or {}).get("priority") if self._inherits_priority else None,
        }
        linked = [maybe_signature(each, app=self.app) for each in request.callbacks or ()]
        if len(linked) > 1:
            plain = [each for each in linked if not isinstance(each, group)]
            linked = [each for each in linked if isinstance(each, group)]
            linked += [group(plain, app=self.app)] if plain else []
        for each in linked:
            self.app.amqp._retry_publish(each.apply_async, (result,), **options)
        if request.chain:
            *rest, following = request.chain
            send = maybe_signature(following, app=self.app).apply_async
            self.app.amqp._retry_publish(send, (result,), chain=rest, **options)

    async def _is_done(self, request: Context) -> bool:
        """Whether a redelivered message was executed already (`worker_deduplicate_…`)."""
        if not (request.delivery_info or {}).get("redelivered"):
            return False
        return request.id in stock.successful_requests or bool(await self._aside(self._stored_success, request))

    def _stored_success(self, request: Context) -> bool:
        result = AsyncResult(request.id, app=self.app)
        try:
            if result.state != SUCCESS:
                return False
        except BackendGetMetaError:
            return False
        context = {"id": request.id, "name": stock.get_task_name(request, self.task.name)}
        stock.info(stock.LOG_IGNORED, {**context, "description": "Task already completed successfully."})
        try:
            stored = result._get_task_meta()
            if not stored.get("children"):  # otherwise they have been sent already
                self._send_next(request, stored.get("result"))
        except MemoryError:
            raise
        except Exception as error:
            logger.exception("Failed to dispatch chain/callbacks for deduplicated task %s", request.id)
            raise Reject(error, requeue=True) from error
        stock.successful_requests.add(request.id)
        return True

    def _hook(self, request: Context, hook: str, function: Callable[..., Any], *args: Any) -> None:
        """Call a hook whose failure does not change how the task ended."""
        try:
            function(*args)
        except (Reject, MemoryError):
            raise
        except Exception as error:
            name = stock.get_task_name(request, self.task.name)
            logger.exception("Task %s[%s] %s handler raised: %r", name, request.id, hook, error)

    def _log_success(self, request: Context, text: str | None, runtime: float) -> None:
        context = {
            "id": request.id,
            "name": stock.get_task_name(request, self.task.name),
            "return_value": text,
            "runtime": runtime,
            "args": request.get("argsrepr") or safe_repr(request.args),
            "kwargs": request.get("kwargsrepr") or safe_repr(request.kwargs),
        }
        stock.info(stock.LOG_SUCCESS, context)

    def _clean_up(self) -> None:
        try:
            for clean in (self._cleanup_backend, self._on_cleanup):
                if clean is not None:
                    clean()
        except MemoryError:
            raise
        except Exception as error:
            logger.error("Process cleanup failed: %r", error, exc_info=True)


def is_async(task: Any) -> bool:
    """Whether the pool awaits a task: it has a coroutine method `run_async`, or its `run` is one.

    Only this pool calls `run_async`; all others call `run`.
    """
    return any(iscoroutinefunction(getattr(task, name, None)) for name in ("run_async", "run", "_orig_run"))


def _function_of(task: Any) -> tuple[Callable[..., Coroutine[Any, Any, Any]], int]:
    """The coroutine function that executes a task, and Celery's `_protected` (celery/app/trace.py:880) for it.

    `_protected` is 1 if `run` is called directly, and 0 if the task's `__call__` still has to call it.
    """
    if iscoroutinefunction(found := getattr(task, "run_async", None)):
        return found, 1
    if iscoroutinefunction(getattr(task, "_orig_run", None)):
        return _retrying(task), 1
    # Celery's own patch of __call__ makes it look overridden in every class.
    if stock.task_has_custom(task, "__call__") in (None, celery.Task):
        return task.run, 1

    async def call(*args: Any, **kwargs: Any) -> Any:
        result = task(*args, **kwargs)
        return await result if isawaitable(result) else result

    return call, 0


#: The exception that `run` raises inside a task's `autoretry_for` wrapper.
_raised: ContextVar[BaseException | None] = ContextVar("umbel_raised", default=None)


def _retrying(task: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
    """`autoretry_for` (celery/app/autoretry.py:8) for a coroutine, which its wrapper around `run` cannot await.

    The coroutine is awaited first. Its exception is then raised inside that wrapper, which decides on a retry.
    """
    original = task._orig_run

    def raise_it(*_: Any, **__: Any) -> Any:
        error = _raised.get()
        assert error is not None
        raise error

    async def run_async(*args: Any, **kwargs: Any) -> Any:
        try:
            return await original(*args, **kwargs)
        except Exception as error:
            token = _raised.set(error)
            try:
                return task.run(*args, **kwargs)
            finally:
                _raised.reset(token)

    task._orig_run, task.run_async = raise_it, run_async  # a second pool in this process finds run_async
    return run_async


def _counted_as(job: Job, error: BaseException) -> BaseException:
    """The exception to report for a failed task. For a stopped job, raises `CancelledError` instead."""
    if job.stopped_at is not None:
        raise asyncio.CancelledError from error
    if isinstance(error, GeneratorExit):
        raise error
    if isinstance(error, SoftLimitReached):
        plain: BaseException = SoftTimeLimitExceeded(*error.args).with_traceback(error.__traceback__)
        return plain
    if isinstance(error, Exception):
        return error
    return ended_abruptly(job.args[0], error).with_traceback(error.__traceback__)


def _custom(task: Any, hook: str) -> Callable[..., Any] | None:
    return getattr(task, hook) if stock.task_has_custom(task, hook) else None


def _overridden(found: Any, base: type, name: str) -> Callable[..., Any] | None:
    """The method of this name, or None if it is the base class's, which does nothing."""
    return None if getattr(type(found), name, None) is getattr(base, name) else getattr(found, name)
