"""Shows monitors each step that a worker continues with, for which there is no message, as a Celery task.

Celery emits task events and signals for messages. For a step without a message they are emitted here, with the id that
its message would have had. Signals are sent on the loop's thread, as for its other tasks. Events are sent on the hub's
thread, like all others, with one wake-up for all that are pending.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, signals, states
from celery._state import _task_stack

from ...orchestration.model.plan import Plan
from ...orchestration.model.work_item import Work
from ...orchestration.store.replies import Dispatch
from ...tasks.attempt.running import AttemptFailed
from ...tasks.messages.template import shown_arguments, task_id_of
from ..pool.lazy_request import LazyTaskRequest, sends_task_events
from ..pool.task_context import follow_contexts

logger = logging.getLogger("umbel.worker")

_SIGNALS = (signals.task_postrun, signals.task_success, signals.task_failure, signals.task_retry)


class ContinuedTasks:
    """Reports continued steps as task events, signals and log lines. Called on the loop's thread."""

    def __init__(self, app: Celery) -> None:
        """Args:
        app: The worker's app.
        """
        self._app = app
        self._consumer: Any = None
        self._events: deque[tuple[str, dict[str, Any]]] = deque()
        self._is_flush_due = False
        self._lock = threading.Lock()

    def attach(self, consumer: Any) -> None:
        """Set the worker's consumer, which has the event dispatcher and the hub; called after each connect."""
        self._consumer = consumer

    @property
    def _eventer(self) -> Any:
        return getattr(self._consumer, "event_dispatcher", None)

    def began(self, work: Work, plan: Plan) -> None:
        """Report that an attempt begins. A call of `ended` always follows."""
        task = self._app.tasks[plan.by_name[work.step].task]
        if logger.isEnabledFor(logging.DEBUG) or sends_task_events(self._eventer):
            self._announce(task, _dispatch_of(work))
        follow_contexts(task.request_stack)  # done for messages, but this task may not have had one here
        _task_stack.push(task)
        task.request_stack.push(LazyTaskRequest(partial(self._fields, work)))
        if signals.task_prerun.receivers:
            dispatch = _dispatch_of(work)
            given = {"task_id": task_id_of(dispatch), "args": _arguments_of(dispatch), "kwargs": {}}
            signals.task_prerun.send(sender=task, task=task, **given)

    def _announce(self, task: Any, dispatch: Dispatch) -> None:
        task_id = task_id_of(dispatch)
        logger.debug("Task %s[%s] continues on this worker", task.name, task_id, extra={"action": "step_continued"})
        if sends_task_events(self._eventer):
            shown = {"name": task.name, "args": shown_arguments(dispatch), "kwargs": "{}", "retries": 0}
            self._send("task-received", uuid=task_id, root_id=task_id, parent_id=None, **shown)
            self._send("task-started", uuid=task_id)

    def _fields(self, work: Work) -> dict[str, Any]:
        """What the step sees as `current_task.request`."""
        dispatch = _dispatch_of(work)
        task_id = task_id_of(dispatch)
        return {
            "id": task_id,
            "args": _arguments_of(dispatch),
            "kwargs": {},
            "root_id": task_id,
            "hostname": getattr(self._consumer, "hostname", None),
            "headers": {},
            "called_directly": False,
        }

    def ended(self, work: Work, plan: Plan, text: str, failed: AttemptFailed | None, seconds: float) -> None:
        """Report that the attempt has ended, with a result text or a failure."""
        task = self._app.tasks[plan.by_name[work.step].task]
        is_logged = failed is not None or logger.isEnabledFor(logging.DEBUG)
        try:
            if is_logged or sends_task_events(self._eventer) or _has_receivers():
                self._report_end(task, _dispatch_of(work), text, failed, seconds)
        finally:
            _task_stack.pop()
            task.pop_request()

    def _report_end(
        self, task: Any, dispatch: Dispatch, text: str, failed: AttemptFailed | None, seconds: float
    ) -> None:
        task_id = task_id_of(dispatch)
        logger.log(
            logging.DEBUG if failed is None else logging.INFO,
            "Task %s[%s] continued on this worker, finished in %ss: %s",
            task.name,
            task_id,
            seconds,
            failed or text,
            extra={"action": "step_continued"},
        )
        if sends_task_events(self._eventer):
            if failed is None:
                self._send("task-succeeded", uuid=task_id, result=repr(text), runtime=seconds)
            else:
                kind = "task-failed" if failed.retry_delay_seconds is None else "task-retried"
                text_of_failure = "".join(traceback.format_exception(failed))
                self._send(kind, uuid=task_id, exception=repr(failed), traceback=text_of_failure)
        if _has_receivers():
            self._signal_end(task, dispatch, text, failed)

    @staticmethod
    def _signal_end(task: Any, dispatch: Dispatch, text: str, failed: AttemptFailed | None) -> None:
        task_id = task_id_of(dispatch)
        given = {"args": _arguments_of(dispatch), "kwargs": {}}
        if failed is None:
            state = states.SUCCESS
            signals.task_success.send(sender=task, result=text)
        else:
            einfo = ExceptionInfo((type(failed), failed, failed.__traceback__))
            if failed.retry_delay_seconds is None:
                state = states.FAILURE
                about: dict[str, Any] = {"exception": failed, "traceback": failed.__traceback__, "einfo": einfo}
                signals.task_failure.send(sender=task, task_id=task_id, **given, **about)
            else:
                state = states.RETRY
                signals.task_retry.send(sender=task, request=task.request, reason=failed, einfo=einfo)
        signals.task_postrun.send(sender=task, task_id=task_id, task=task, **given, retval=text, state=state)

    def _send(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._events.append((kind, fields))
            is_due, self._is_flush_due = self._is_flush_due, True
        if is_due:
            return
        if self._consumer.hub is None:
            self._flush()
        else:
            self._consumer.hub.call_soon(self._flush)

    def _flush(self) -> None:
        with self._lock:
            self._is_flush_due = False
            events, self._events = self._events, deque()
        try:
            for kind, fields in events:
                self._consumer.event_dispatcher.send(kind, retry=True, **fields)
        except Exception as error:  # they are only for monitors, and the hub's thread must continue
            about = {"action": "events_not_sent"}
            logger.warning("%d task events were not sent: %r", len(events), error, extra=about)


def _has_receivers() -> bool:
    """Whether Celery's task signals have receivers: tracing, error trackers, the user's code."""
    return any(signal.receivers for signal in _SIGNALS)


def _arguments_of(dispatch: Dispatch) -> tuple[str, str, int]:
    return dispatch.run_id, dispatch.work_id, dispatch.dispatch_no


def _dispatch_of(work: Work) -> Dispatch:
    """The dispatch that would have been sent for the work."""
    return Dispatch(work.run_id, work.work_id, work.dispatches, work.step, "", 0)
