"""A Celery worker as a thread of this process: the ordinary worker, with a pool of threads."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any

from celery import Celery
from celery.app.trace import trace_task_ret
from celery.concurrency.thread import TaskPool
from celery.worker import state

from ...orchestration.model.errors import ConfigurationError
from ...tasks.workflow.registry import Registered


class InProcessPool(TaskPool):  # type: ignore[misc]  # Celery is untyped
    """Celery's threads pool, bound to its own app: the current app of this process may be another one."""

    #: Otherwise Celery would forbid `AsyncResult.get()` from now on in the whole process, including the user's code.
    task_join_will_block = False

    def on_apply(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute the task in the worker's app."""
        return super().on_apply(partial(trace_task_ret, app=self.app), *args, **kwargs)


#: Seconds the worker may take to be ready.
START_SECONDS = 30.0


class InProcessWorker:
    """One worker thread. Celery keeps a worker's state in module globals, so a process can have only one."""

    _taken = threading.Lock()

    def __init__(self, app: Celery, concurrency: int) -> None:
        self._app, self._concurrency = app, concurrency
        self._ready = threading.Event()
        self._controller: Any = None
        self._thread: threading.Thread | None = None
        self._known: set[str] = set()
        self._queues: set[str] = set()
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread and wait until the worker takes messages.

        Raises:
            ConfigurationError: The process has an in-process worker already, or the worker did not start.
        """
        if not self._taken.acquire(blocking=False):
            raise ConfigurationError(
                "Only one umbel.local(in_process=True) block may be open in a process. Use the open one, or "
                "umbel.local() with worker processes."
            )
        self._app.finalize()
        self._thread = threading.Thread(target=self._run, name="umbel-worker", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or self._failure is not None:
            self.stop()
            raise ConfigurationError(
                f"The in-process worker did not start: {self._failure or f'not ready in {START_SECONDS:g} s'}."
            ) from self._failure

    def add(self, registered: Registered) -> None:
        """Take messages of this workflow's steps; also possible while the worker runs."""
        consumer = getattr(self._controller, "consumer", None)
        for step in registered.plan.steps:
            if step.task not in self._known:
                self._known.add(step.task)
                if consumer is not None:
                    task = self._app.tasks[step.task]
                    consumer.strategies[step.task] = task.start_strategy(self._app, consumer)
            if step.queue is not None and step.queue not in self._queues:
                self._queues.add(step.queue)
                if consumer is not None:
                    consumer.call_soon(consumer.add_task_queue, step.queue)
                else:
                    self._app.amqp.queues.select_add(step.queue)

    def stop(self) -> None:
        """Stop the worker and wait for it."""
        if self._thread is None:
            return
        if self._thread.is_alive():
            state.should_stop = os.EX_OK
            self._thread.join(START_SECONDS)
        state.should_stop = None
        self._thread = None
        self._taken.release()

    def _run(self) -> None:
        try:
            self._controller = self._app.WorkController(
                app=self._app,
                hostname=f"in-process-{os.getpid()}",
                pool_cls=InProcessPool,
                concurrency=self._concurrency,
                without_heartbeat=True,
                without_mingle=True,
                without_gossip=True,
                ready_callback=lambda _consumer: self._ready.set(),
            )
            self._controller.start()
        except BaseException as failure:
            self._failure = failure
        finally:
            self._ready.set()
