"""Steps that a worker goes on with past the broker, shown to monitors as what they are: Celery tasks of their own.

Celery makes task events for messages. For a step that no message was sent for they are made here, with the id its
message would have had, and sent by the thread that sends all others: one wake-up for what happens in one moment.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import Any

from celery import Celery

from ..orchestration.plan import Plan
from ..orchestration.records import Doorbell
from ..orchestration.work import Work
from ..tasks.attempt import AttemptFailed
from ..tasks.doorbell_messages import shown_arguments, task_id_of

logger = logging.getLogger("umbel.worker")


class ContinuedTasks:
    """Reports them, if anybody wants events. Called by the loop's thread."""

    def __init__(self, app: Celery) -> None:
        """Args:
        app: The worker's app.
        """
        self._app = app
        self._consumer: Any = None
        self._events: deque[tuple[str, dict[str, Any]]] = deque()
        self._asked = False
        self._lock = threading.Lock()

    def attach(self, consumer: Any) -> None:
        """The consumer of the worker, which has the event dispatcher and the hub; another one after a reconnect."""
        self._consumer = consumer

    @property
    def _is_wanted(self) -> bool:
        dispatcher = getattr(self._consumer, "event_dispatcher", None)
        return dispatcher is not None and bool(dispatcher.enabled)

    def began(self, work: Work, plan: Plan) -> None:
        """An attempt begins."""
        name = plan.by_name[work.step].task
        bell = _bell(work)
        task_id = task_id_of(bell)
        if logger.isEnabledFor(logging.INFO):
            logger.info("Task %s[%s] goes on here", name, task_id)
        if self._is_wanted:
            shown = {"name": name, "args": shown_arguments(bell), "kwargs": "{}", "retries": 0}
            self._send("task-received", uuid=task_id, root_id=task_id, parent_id=None, **shown)
            self._send("task-started", uuid=task_id)

    def ended(self, work: Work, plan: Plan, text: str, failed: AttemptFailed | None, seconds: float) -> None:
        """It has ended."""
        task_id = task_id_of(_bell(work))
        if logger.isEnabledFor(logging.INFO):
            logger.info("Task %s[%s] ended in %ss: %s", plan.by_name[work.step].task, task_id, seconds, failed or text)
        if not self._is_wanted:
            return
        if failed is None:
            self._send("task-succeeded", uuid=task_id, result=repr(text), runtime=seconds)
        else:
            kind = "task-failed" if failed.retry_delay_seconds is None else "task-retried"
            self._send(kind, uuid=task_id, exception=repr(failed), traceback="")

    def _send(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._events.append((kind, {"pid": os.getpid(), **fields}))
            asked, self._asked = self._asked, True
        if not asked:
            self._consumer.hub.call_soon(self._flush) if self._consumer.hub is not None else self._flush()

    def _flush(self) -> None:
        with self._lock:
            self._asked = False
            events, self._events = self._events, deque()
        dispatcher = self._consumer.event_dispatcher
        for kind, fields in events:
            dispatcher.send(kind, retry=True, **fields)


def _bell(work: Work) -> Doorbell:
    """The doorbell that would have been rung for it."""
    return Doorbell(work.run_id, work.work_id, work.dispatches, work.step, "", 0)
