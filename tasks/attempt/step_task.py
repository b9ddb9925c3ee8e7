"""The Celery task: one per step. Its message is a dispatch; everything else is in `executor.py`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery import Celery, Task
from celery.app import trace
from celery.exceptions import InvalidTaskError, Retry
from celery.worker import strategy
from celery.worker.request import Request

from ...orchestration.store.replies import Refusal
from ..messages.template import message_fault
from ..workflow.registry import Registered
from .executor import Executor
from .running import AttemptFailed, DeliveryResult

logger = logging.getLogger("umbel.step_task")

ExecutorOf = Callable[[], Executor]
#: Calls a function so that all its code sees a task as Celery's current task, in whatever thread it runs.
InContextOf = Callable[[Task, Callable[[], DeliveryResult]], DeliveryResult]


class StepRequest(Request):  # type: ignore[misc]  # Celery is untyped
    """Celery's view of a delivered dispatch, in the worker's main process."""

    def __init__(self, message: Any, *args: Any, **options: Any) -> None:
        """As Celery's own.

        Raises:
            InvalidTaskError: The message is not a valid dispatch.
        """
        super().__init__(message, *args, **options)
        try:
            fault = message_fault(message.payload)
        except MemoryError:  # not the message's fault
            raise
        except Exception as error:
            raise InvalidTaskError(f"its body does not deserialize: {error!r:.200}") from error
        if fault is not None:
            raise InvalidTaskError(fault)

    def on_success(self, failed__retval__runtime: tuple[Any, Any, float], **kwargs: Any) -> Any:
        """Report how long the step took, without the steps that its worker continued with in the same pool slot."""
        failed, result, runtime = failed__retval__runtime
        if isinstance(result, DeliveryResult) and result.seconds is not None:
            runtime = result.seconds
        return super().on_success((failed, result, runtime), **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """If a pool child died, release what it held at once instead of waiting for its lease to expire."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError):
            self.task.child_lost()
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


class StepTask(Task):  # type: ignore[misc]  # Celery is untyped
    """Executes dispatches of one step. All options are set on this task only, never app-wide."""

    Request = StepRequest
    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True
    store_errors_even_if_ignored = False
    serializer = "json"
    max_retries = 0
    acks_on_failure_or_timeout = True
    throws = (AttemptFailed,)  # already logged, with its traceback
    typing = False
    #: Level of Celery's log lines "received" and "succeeded" for each message. Failures and retries keep their levels.
    log_level = logging.DEBUG
    executor: ExecutorOf
    loop_executor: ExecutorOf
    child_lost: Callable[[], None]
    in_context_of: InContextOf
    holds: Callable[[Any], bool]

    def start_strategy(self, app: Celery, consumer: Any, **options: Any) -> Any:
        """Celery's handler for this task's messages, logging each at DEBUG.

        A message whose work is held because its workflow is paused is acknowledged and dropped.
        """
        handle = super().start_strategy(app, consumer, info=strategy.logger.debug, **options)

        def handle_unless_held(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
            if self.holds(message):
                return ack(logger, consumer.connection_errors)
            return handle(message, body, ack, reject, callbacks, **more)

        return handle_unless_held

    def run(self, run_id: str, work_id: str, dispatch_no: int) -> str:
        """Process one dispatch; the result is a text for logs.

        Raises:
            AttemptFailed: The step has failed and is not retried: Celery's state for this task is FAILURE.
            Retry: The step has failed and will be retried: the state is RETRY. The next attempt is a separate task.
        """
        deliver = partial(self.executor().deliver_blocking, run_id, work_id, dispatch_no)
        try:
            return _noted(self.in_context_of(self, deliver), run_id, self.name)
        except AttemptFailed as failed:
            raise _for_celery(failed) from None

    async def run_async(self, run_id: str, work_id: str, dispatch_no: int) -> str:
        """`run` for umbel's asyncio pool, which calls this on its event loop instead."""
        try:
            return _noted(await self.loop_executor().deliver(run_id, work_id, dispatch_no), run_id, self.name)
        except AttemptFailed as failed:
            raise _for_celery(failed) from None


def _noted(result: DeliveryResult, run_id: str, task: str) -> DeliveryResult:
    """Log, at a limited rate, messages for runs that are not in this Redis: another deployment may share the queue."""
    global _next_note_at
    if result == Refusal.UNKNOWN.value and time.monotonic() >= _next_note_at:
        _next_note_at = time.monotonic() + _NOTE_SECONDS
        logger.warning(
            "A message for task %s is of run %s, which is not in this deployment's Redis; it was dropped. If the run "
            "was not deleted, another deployment sends to the same queue of the same broker, and each drops what the "
            "other should get: give each a queue of its own (UMBEL_DEFAULT_QUEUE, or the app's task_default_queue).",
            task,
            run_id,
            extra={"action": "unknown_run", "run_id": run_id},
        )
    return result


def _for_celery(failed: AttemptFailed) -> Exception:
    if failed.retry_delay_seconds is None:
        return failed
    # Only sets the state; unlike `Task.retry`, it sends no message.
    retry: Exception = Retry(exc=failed, when=failed.retry_delay_seconds)
    return retry.with_traceback(failed.__traceback__)


#: Minimum time between two log lines of a process about unknown runs.
_NOTE_SECONDS = 60.0
_next_note_at = 0.0


class _StepSuccesses(logging.Filter):
    """Lowers Celery's log line for each success to DEBUG if the task is a step."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        about = record.args
        if record.msg != trace.LOG_SUCCESS or not isinstance(about, dict) or about.get("name") not in self.tasks:
            return True
        record.levelno, record.levelname = StepTask.log_level, logging.getLevelName(StepTask.log_level)
        return bool(trace.logger.isEnabledFor(StepTask.log_level))


_step_successes = _StepSuccesses()
trace.logger.addFilter(_step_successes)


def register_tasks(
    app: Celery,
    registered: Registered,
    executor: ExecutorOf,
    loop_executor: ExecutorOf,
    child_lost: Callable[[], None],
    in_context_of: InContextOf,
    holds: Callable[[Any], bool],
) -> list[str]:
    """Register one task per step and return their names. Tasks that are already registered are kept."""
    names = []
    for step in registered.plan.steps:
        names.append(step.task)
        _step_successes.tasks.add(step.task)
        if step.task in app._tasks:  # two workflows may share the name's last part; the message carries the run id
            continue
        # Queue and priority are not attributes of the task, since Celery deprecates that: each dispatch carries them.
        options: dict[str, Any] = {"name": step.task, "executor": staticmethod(executor)}
        options["loop_executor"] = staticmethod(loop_executor)
        options["child_lost"] = staticmethod(child_lost)
        options["in_context_of"] = staticmethod(in_context_of)
        options["holds"] = staticmethod(holds)
        task_class = type(f"StepTask_{step.name}", (StepTask,), {**options, "__module__": __name__})
        app.register_task(task_class())
    return names
