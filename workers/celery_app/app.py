"""umbel inside a Celery app: `install()` adds it to your app, `create_app()` makes an app for umbel alone.

`install()` sets options on umbel's own tasks, never app-wide. It refuses settings that would break umbel, with the
reason, and leaves everything else alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from functools import partial
from typing import Any

from celery import Celery, Task, signals
from celery.app.routes import Router, prepare
from celery.utils.time import rate
from celery.worker import state as worker_state

from ...orchestration.connection.portal import Portal
from ...orchestration.connection.settings import Settings, redact_url
from ...orchestration.model.errors import ConfigurationError, NotConfigured
from ...orchestration.model.plan import Plan, StepPlan
from ...orchestration.streams.watch import EndedWatch
from ...tasks.attempt.continuation import Continuation
from ...tasks.attempt.executor import Executor
from ...tasks.attempt.plain_calls import ThreadCalls
from ...tasks.attempt.step_task import register_tasks
from ...tasks.client.runtime import Runtime, set_default_runtime
from ...tasks.messages.dispatcher import CeleryDispatcher, checked_broker, tls_options, transport_options
from ...tasks.workflow.definition import WorkflowDefinition
from ...tasks.workflow.registry import Registered, Registrable, Registry
from ..doctor.celery_rules import breaking_settings
from ..pool.daemon_threads import DaemonThreads
from ..pool.task_context import in_context_of
from ..transport.channel import use_transport
from .bootsteps import ParkingStep, SweepStep
from .continued_tasks import ContinuedTasks
from .direct_delivery import DirectDelivery
from .paused_queues import PausedQueues
from .paused_workflows import PausedWorkflows
from .self_delivery import SelfDelivery
from .worker_log import WorkerLog

logger = logging.getLogger("umbel.install")

#: What `create_app` sets; docs/running-in-production.md gives the reasons. `install` does not set these.
APP_SETTINGS: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "event_serializer": "json",
    "result_accept_content": ["json"],
    "task_ignore_result": True,
    "result_backend": None,
    "task_store_errors_even_if_ignored": False,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "worker_enable_soft_shutdown_on_idle": True,
    "worker_max_tasks_per_child": None,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
}


class Installation:
    """umbel in one Celery app: what it can execute, and the executor of each process."""

    def __init__(self, app: Celery, settings: Settings, registry: Registry) -> None:
        self.app, self.settings, self.registry = app, settings, registry
        self.runtime = Runtime(settings, app=app, registry=registry)
        self.worker_name = "client"
        self.loop_of: Any = None
        self.sweep_step: SweepStep | None = None
        self.continued = ContinuedTasks(app)
        self.self_delivery = SelfDelivery()
        self.paused_queues = PausedQueues(app)
        self.paused_workflows = PausedWorkflows(self.runtime)
        self.direct_delivery = DirectDelivery(settings, registry, self.paused_workflows)
        self._executor: Executor | None = None
        self._loop_executor: Executor | None = None
        self._watches: list[EndedWatch] = []
        self._pid = 0
        self._lock = threading.Lock()

    def add(self, workflow: Registrable, *, to_run: bool = False) -> Registered:
        """Make a workflow executable here: its steps become tasks of the app.

        Args:
            workflow: The workflow.
            to_run: Whether it is an instance that is about to be run here.

        Raises:
            WorkflowValidationError: It cannot be built, is invalid, or has the name of another workflow.
        """
        registered = self.registry.add(workflow, to_run=to_run)
        WorkflowDefinition.ensure_valid(registered.workflow)
        register_tasks(
            self.app,
            registered,
            self.executor,
            self.loop_executor,
            self.child_lost,
            in_context_of,
            self.paused_workflows.holds,
        )
        return registered

    def executor(self) -> Executor:
        """The executor of this process; a forked child makes its own."""
        with self._lock:
            if self._executor is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self.registry.executes = True
                self._executor = Executor(
                    self.settings,
                    self.registry,
                    self._dispatcher,
                    worker=self.worker_name,
                    portal=Portal("umbel-steps"),
                    loop_of=self.loop_of,
                    one_at_a_time=self.sweep_step is not None and self.sweep_step.pid != os.getpid(),
                )
                self._watches = self._watching(self._executor)
            return self._executor

    def loop_executor(self) -> Executor:
        """The executor of this process's event loop, for umbel's asyncio pool; called on that loop."""
        if self._loop_executor is None:
            conf = self.app.conf
            self.registry.executes = True
            self._loop_executor = Executor(
                self.settings,
                self.registry,
                self._dispatcher,
                worker=self.worker_name,
                portal=Portal("umbel-steps", asyncio.get_running_loop()),
                continuation=Continuation(self._takes, self.continued),
                plain=ThreadCalls(DaemonThreads(conf.get("worker_asyncio_threads") or 8, "umbel-step")),
            )
            self._watches = self._watching(self._loop_executor)
        return self._loop_executor

    def _watching(self, executor: Executor) -> list[EndedWatch]:
        hub = self.runtime.hub
        return [EndedWatch(hub, executor.run_ended), EndedWatch(hub, executor.step_cancelled, "stopped")]

    def _dispatcher(self, portal: Portal) -> CeleryDispatcher:
        return CeleryDispatcher(self.app, portal, grouped=self.settings.grouped_scripts)

    def _takes(self, plan: Plan, step: StepPlan) -> bool:
        """Whether this worker may continue with a step locally: it must be able to receive it from a queue, too."""
        if self.paused_workflows.covering(plan.workflow):
            return False
        if worker_state.should_stop is not None or worker_state.should_terminate is not None:
            return False  # it is draining
        task = self.app.tasks.get(step.task)
        queue = step.queue or self.settings.queue
        return task is not None and not rate(task.rate_limit) and queue in self.app.amqp.queues.consume_from

    @property
    def steps_begun(self) -> int:
        """How many attempts this process has begun."""
        executors = (self._executor, self._loop_executor)
        return sum(executor.attempts.begun for executor in executors if executor is not None)

    def child_lost(self) -> None:
        """A pool child died; called in the worker's main process."""
        if self.sweep_step is not None:
            self.sweep_step.look_for_dead()

    def close(self) -> None:
        """End this process's executor and connections."""
        self.end_executors()
        self.runtime.close()

    def end_executors(self) -> None:
        """Hand back the work that this process holds, send its counters, and stop executing."""
        with self._lock:
            executor, self._executor = self._executor, None
            on_loop, self._loop_executor = self._loop_executor, None
        if executor is not None and self._pid == os.getpid():
            executor.close()
        if on_loop is not None:
            on_loop.close()


def install(app: Celery, *workflows: Registrable, settings: Settings | None = None) -> Installation:
    """Add umbel to a Celery app; `celery -A proj worker`, inspect, Flower, routing and signals keep working.

    Call it where the app is made, in a module that clients and workers both import. From then on, runs started in this
    process use this app.

    Args:
        app: Any Celery app with a Redis or AMQP broker.
        *workflows: Instances, classes or factories.
        settings: By default from `UMBEL_*`; if those have no Redis URL, the app's broker is used if it is Redis.

    Raises:
        ConfigurationError: The app is configured in a way that breaks umbel; the text says how to fix it.
        NotConfigured: There is no Redis for the state.
        WorkflowValidationError: A workflow cannot be built or is invalid.
    """
    settings = Settings.from_environment() if settings is None else settings
    settings = _completed(app, settings)
    _refuse_what_breaks(app)
    if app.Task.__call__ is not Task.__call__:
        logger.warning(
            "Steps are not called through the app's task class %s: what its __call__ opens (an application context, a "
            "session) is not open in them. Open it in the step, or in a Resource.",
            next(cls.__qualname__ for cls in app.Task.__mro__ if "__call__" in vars(cls)),
            extra={"action": "task_class_unused"},
        )
    installation = Installation(app, settings, Registry(partial(_routed, app)))
    app.umbel = installation

    def close_executor(**_: Any) -> None:
        installation.close()

    def end_executors(**_: Any) -> None:
        installation.end_executors()

    signals.worker_process_shutdown.connect(close_executor, weak=False)
    signals.worker_shutdown.connect(end_executors, weak=False)  # solo and threads send no process signal
    app.steps["worker"].add(SweepStep)
    app.steps["consumer"].add(ParkingStep)
    for workflow in workflows:
        installation.add(workflow)
    set_default_runtime(installation.runtime)
    return installation


def create_app(settings: Settings, *workflows: Registrable) -> Celery:
    """A Celery app for umbel alone, with the settings that its reliability needs.

    Raises:
        NotConfigured: The settings have no Redis URL.
    """
    app = Celery("umbel", broker=checked_broker(settings), log=WorkerLog, set_as_current=False)
    app.conf.update(
        APP_SETTINGS,
        task_default_queue=settings.queue,
        broker_transport_options=transport_options(settings),
        broker_use_ssl=tls_options(settings),
        worker_soft_shutdown_timeout=settings.drain_seconds,
    )
    if settings.broker_transport == "umbel" and settings.broker.startswith(
        ("redis://", "rediss://", "redis+socket://")
    ):
        use_transport(app)
    install(app, *workflows, settings=settings)
    return app


def _completed(app: Celery, settings: Settings) -> Settings:
    """Fill in from the app what the settings leave unset."""
    missing: dict[str, Any] = {}
    broker = app.conf.broker_url
    if settings.redis_url is None:
        if not isinstance(broker, str) or not broker.startswith(("redis://", "rediss://")):
            raise NotConfigured(
                f"umbel keeps its state in Redis, and neither UMBEL_REDIS_URL nor the app's broker "
                f"({redact_url(broker) if isinstance(broker, str) else broker!r}) names one. Set UMBEL_REDIS_URL."
            )
        missing["redis_url"] = broker
    if settings.broker_url is None and isinstance(broker, str):
        missing["broker_url"] = broker
    if settings.default_queue is None:
        missing["default_queue"] = app.conf.task_default_queue
    return settings.model_copy(update=missing)


def _refuse_what_breaks(app: Celery) -> None:
    problems = [f"{text}; {fix}" for text, fix in breaking_settings(app.conf)]
    if problems:
        raise ConfigurationError(f"umbel cannot be installed on this Celery app: {'; '.join(problems)}.")


def _routed(app: Celery, task: str) -> str | None:
    """The queue to which the app's `task_routes` send a task; None if they do not mention it.

    Raises:
        ConfigurationError: They route it without naming a queue, which umbel does not support.
    """
    route = Router(prepare(app.conf.task_routes)).lookup_route(task, (), {}, {}, None)
    if not route:
        return None
    queue = route if isinstance(route, str) else route.get("queue")
    name = queue if isinstance(queue, str) else getattr(queue, "name", None)
    if name is None:
        raise ConfigurationError(
            f"task_routes send {task!r} to {route!r}, which names no queue. Steps are sent to queues: name one there, "
            "or in @step(queue=…)."
        )
    return str(name)
