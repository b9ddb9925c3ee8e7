"""The runtime: a process's connection to a deployment, through which runs are started, attached to and streamed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, get_args

from celery import Celery

from ...orchestration.connection.keys import check_chosen_id, check_run_id, new_id, new_nonce
from ...orchestration.connection.portal import Portal
from ...orchestration.connection.settings import Settings
from ...orchestration.engine.protocol import Engine
from ...orchestration.history.points import Point
from ...orchestration.model.commands import WhenBusy
from ...orchestration.model.decide import Limits, decide_start
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import (
    ContextSerdeError,
    NotConfigured,
    RunEnded,
    RunExists,
    RunNotFound,
    SessionBusy,
    WorkflowRuntimeError,
)
from ...orchestration.model.plan import Plan
from ...orchestration.sessions.look import current_run
from ...orchestration.sessions.names import new_run_of
from ...orchestration.snapshots.restore import begin_from
from ...orchestration.snapshots.saved import RunSnapshot
from ...orchestration.store.nodes import connection_to
from ...orchestration.store.replies import RunRecord
from ...orchestration.store.verbs import Store
from ...orchestration.streams.ends import StartedRun
from ...orchestration.streams.reader import StreamHub
from ..context.ctx import Context
from ..context.tracing import tracing
from ..events.codec import encode_event
from ..events.event import StartEvent
from ..messages.dispatcher import CeleryDispatcher, publishing_app
from ..telemetry.by_setting import trace_by_setting
from ..workflow.definition import WorkflowDefinition, serializer_of
from ..workflow.registry import Registry
from ..workflow.start_events import kept_start_event
from .handler import WorkflowHandler
from .own_connection import OwnConnection, drive, engine_here

logger = logging.getLogger("umbel.runtime")


class Runtime:
    """The connections of a process, opened on first use; safe to share between threads and event loops."""

    def __init__(
        self, settings: Settings | None = None, *, app: Celery | None = None, registry: Registry | None = None
    ) -> None:
        """Args:
        settings: The same in all processes of the deployment; by default those of the environment.
        app: The Celery app whose broker is used; by default one that only sends.
        registry: The workflows known here; a worker shares its own.

        Raises:
            NotConfigured: The settings have no Redis URL.
            ConfigurationError: The settings enable OpenTelemetry, which is not installed.
        """
        settings = Settings.from_environment() if settings is None else settings
        if settings.redis_url is None:
            raise NotConfigured(_NOT_CONFIGURED)
        if settings.otel:
            trace_by_setting()
        self.settings = settings
        self.app = publishing_app(settings) if app is None else app
        self.registry = Registry() if registry is None else registry
        self.portal = Portal("umbel-runtime")
        self.store = Store(connection_to(settings.redis_url, self.portal), settings)
        self.dispatcher = CeleryDispatcher(self.app, self.portal)
        self.engine = Engine(self.store, self.dispatcher)
        is_direct = (
            settings.direct_starts and self.store.connection.spans_shards
        )  # requests to a cluster use the shared connection
        self._own_connection = OwnConnection(self.store.connection) if is_direct else None
        self._engine_here = engine_here(self.engine, self._own_connection) if self._own_connection else None
        self._hub: StreamHub | None = None
        self._hub_pid = 0
        self._lock = threading.Lock()

    @property
    def hub(self) -> StreamHub:
        """The stream hub of this process, with its one connection for events; a forked child gets its own."""
        with self._lock:
            if self._hub is None or self._hub_pid != os.getpid():
                self._hub, self._hub_pid = StreamHub(self.store), os.getpid()
            return self._hub

    def start(
        self,
        workflow: WorkflowDefinition,
        event: StartEvent | None,
        *,
        begin_with: RunSnapshot | None = None,
        run_id: str | None = None,
        timeout_seconds: float | None = None,
        options: dict[str, Any] | None = None,
        parent: str | None = None,
        num_concurrent_runs: int | None = None,
        session: str | None = None,
        when_busy: WhenBusy = "queue",
        start_id: str | None = None,
    ) -> WorkflowHandler:
        """Begin a run. *Promise:* when this returns, the run is in Redis and will be executed.

        Without an event the run continues the work of `begin_with`, the live state of another run; with an event it
        gets only that run's `ctx.store`. With `num_concurrent_runs` it may have to wait for admission first; its
        timeout counts from then.

        In a `session` it has that session's `ctx.store`; see `Session.run`. *Promise:* one run of a session executes at
        a time, and the script that ends it begins the next one.

        `start_id` is an unguessable name for this start: starting again with it refers to the same run, as long as
        that run is kept. It cannot be combined with `begin_with` or "join".

        Raises:
            RunExists: The id is taken.
            SessionBusy, SessionFull, SessionClosed: The session does not accept the run.
            WorkflowRuntimeError: `when_busy` has an unknown value.
            StoreUnavailable: Redis did not answer; with a custom id, starting again is safe.
        """
        if session is not None and when_busy not in get_args(WhenBusy):
            raise WorkflowRuntimeError(
                f"when_busy={when_busy!r} is not known. Choose one of: {', '.join(get_args(WhenBusy))}."
            )
        if session is not None and when_busy == "join":
            assert event is not None, "there must be something to send"
            about = {"timeout_seconds": timeout_seconds, "options": options, "num_concurrent_runs": num_concurrent_runs}
            return self._start_or_send(workflow, event, session, **about)
        if session is not None:
            assert run_id is None, "a session's runs get their ids from it"
            assert begin_with is None, "a session's run has the session's state, none from elsewhere"
            run_id = new_run_of(session, start_id)
        elif start_id is not None:
            run_id = start_id
        else:
            run_id = new_id() if run_id is None else check_chosen_id(run_id)
        plan = self.registry.of(workflow).plan.with_priority((options or {}).get("priority"))
        if (traced := tracing()) is not None:
            options = (options or {}) | traced.begin(plan.workflow)
        self.prepare(workflow, run_id)
        self.registry.keep(run_id, workflow)
        envelope = None if event is None else encode_event(event, self.settings)
        options = {"timeout": timeout_seconds} | (options or {}) | kept_start_event(workflow, envelope)
        started = self.hub.expect(run_id)
        here = None if self.portal.is_here() else self._engine_here
        if begin_with is not None or session is not None or num_concurrent_runs is not None:
            here = None  # such a start needs more than one script
        begin = self._begin(
            here or self.engine,
            run_id,
            plan,
            envelope,
            begin_with,
            timeout_seconds=timeout_seconds,
            options=options,
            parent=parent,
            num_concurrent_runs=num_concurrent_runs,
            when_busy=None if session is None else when_busy,
            nonce=start_id,
        )
        if here is not None:
            here.store.patience_seconds = self.store.patience_seconds
            drive(begin)
        else:
            self.portal.call(begin)
        logger.debug("run %s started", run_id, extra={"action": "run_started", "run_id": run_id})
        return self.handler(run_id, workflow, started)

    def _start_or_send(
        self, workflow: WorkflowDefinition, event: StartEvent, session: str, **about: Any
    ) -> WorkflowHandler:
        """Send an event to the running run of a session, or start a run with it; each is done by one script."""
        while True:
            try:
                return self.start(workflow, event, session=session, when_busy="reject", **about)
            except SessionBusy:
                run_id = self.portal.call(current_run(self.store, session))
            try:
                handler = self.attach(run_id) if run_id else None
                if handler is not None:
                    handler.deliver(event)
                    return handler
            except (RunEnded, RunNotFound):
                continue  # the run has ended meanwhile

    async def _begin(
        self,
        engine: Engine,
        run_id: str,
        plan: Plan,
        event: Envelope | None,
        begin_with: RunSnapshot | None,
        **about: Any,
    ) -> None:
        limits = self.limits_of(plan.workflow)
        if begin_with is None:
            push = partial(self.dispatcher.pushes, redis_url=self.settings.redis_url)
            await engine.start(run_id, plan, event, limits=limits, push=push, **about)
            return
        commands = [] if event is None else decide_start(plan, run_id, event, limits)
        del about["parent"], about["when_busy"], about["nonce"]
        reply = await begin_from(self.store, run_id, plan, begin_with, commands, limits, nonce=new_nonce(), **about)
        await engine.started(run_id, plan, reply, limited=about["num_concurrent_runs"] is not None)

    def prepare(self, workflow: WorkflowDefinition, run_id: str) -> None:
        """Called before a run is started. A runtime with its own worker ensures here that it knows the workflow."""

    def limits_of(self, workflow: str) -> Limits:
        """The limits for routing events of a workflow's runs; a runtime with several workers distinguishes them."""
        return self.engine.limits

    def handler(
        self, run_id: str, workflow: WorkflowDefinition | None = None, started: StartedRun | None = None
    ) -> WorkflowHandler:
        """A handler for a run that is known to exist; `started` is the hub's record of a run that was started here."""
        registered = None if workflow is None else self.registry.find(workflow.workflow_name, run_id)
        return WorkflowHandler(
            run_id,
            engine=self.engine,
            hub=self.hub,
            limits=self.engine.limits if workflow is None else self.limits_of(workflow.workflow_name),
            events=registered.events if registered else None,
            code=registered.plan if registered else None,
            state_class=registered.state_class if registered else None,
            serializer=None if workflow is None else serializer_of(workflow),
            started=started,
        )

    def attach(self, run_id: str) -> WorkflowHandler:
        """A handler for any run, started by any process.

        Raises:
            RunNotFound: There is no such run.
        """
        return self.handler_of(self.portal.call(self.store.run(check_run_id(run_id))))

    def attach_to(self, workflow: WorkflowDefinition, run_id: str) -> WorkflowHandler:
        """A handler for a run of a workflow.

        Raises:
            RunNotFound: There is no such run.
            RunExists: It is a run of another workflow.
        """
        record = self.portal.call(self.store.run(run_id))
        if record.workflow != workflow.workflow_name:
            raise RunExists(f"Run {run_id!r} is a run of {record.workflow!r}, not of {workflow.workflow_name!r}.")
        self.registry.of(workflow)
        return self.handler(run_id, workflow)

    def journal(self, run_id: str) -> list[Point]:
        """The kept changes of a run, oldest first, as `handler.history()`. Blocks.

        Raises:
            RunNotFound: There is no such run.
        """
        return self.attach(run_id).history().listed()

    def restore(
        self, workflow: WorkflowDefinition, snapshot: Mapping[str, Any] | None = None, records: Sequence[Point] = ()
    ) -> Context[Any]:
        """A context for `workflow.run(ctx=…)` that continues after the last of these changes of a run. Blocks.

        Args:
            workflow: What is run.
            snapshot: The result of `to_dict()`; only needed without records.
            records: The first changes returned by `journal`, up to the one to continue from.

        Raises:
            ContextSerdeError: The snapshot cannot be used, or neither is given.
            HistoryUnavailable, HistoryDamaged, RunNotFound: As in `handler.at`.
        """
        if records:
            last = records[-1]
            snapshot = self.attach_to(workflow, last.run_id).snapshot_at(last)
        if snapshot is None:
            raise ContextSerdeError("There is nothing to restore from: give a snapshot, or records of a run's journal.")
        return Context.from_dict(workflow, snapshot)

    def handler_of(self, record: RunRecord) -> WorkflowHandler:
        """A handler for a run whose record was just read."""
        registered = self.registry.find(record.workflow, record.run_id)
        return self.handler(record.run_id, registered.workflow if registered else None)

    @contextmanager
    def registering(self) -> Iterator[None]:
        """Make this the default runtime within the block, for workflows that name no runtime."""
        with use_runtime(self):
            yield

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            hub, self._hub = self._hub, None
        if hub is not None and self._hub_pid == os.getpid():
            hub.close()
        if self._own_connection is not None:
            self._own_connection.disconnect()
        self.portal.close()


_NOT_CONFIGURED = (
    "umbel does not know where Redis is. Set UMBEL_REDIS_URL=redis://host:6379/0 (and start workers with `umbel "
    "worker`), or try things out without any set-up: `umbel exec program.py`, `umbel run module:Workflow`, or "
    "`with umbel.local(in_process=True):` around your code."
)

_default: Runtime | None = None
_default_lock = threading.Lock()


def current_runtime() -> Runtime:
    """The default runtime: the one that was set, else one made from the `UMBEL_*` settings.

    Raises:
        NotConfigured: Neither is available. umbel never starts a Redis server without being asked to.
    """
    global _default
    with _default_lock:
        if _default is None:
            settings = Settings.from_environment()
            if settings.redis_url is None:
                raise NotConfigured(_NOT_CONFIGURED)
            _default = Runtime(settings)
        return _default


def set_default_runtime(runtime: Runtime | None) -> Runtime | None:
    """Make this the default runtime and return the previous one."""
    global _default
    with _default_lock:
        before, _default = _default, runtime
        return before


@contextmanager
def keep_default_runtime() -> Iterator[None]:
    """Restore the default runtime at the end of the block."""
    with _default_lock:
        before = _default
    try:
        yield
    finally:
        set_default_runtime(before)


@contextmanager
def use_runtime(runtime: Runtime) -> Iterator[Runtime]:
    """Make this the default runtime within a block."""
    with keep_default_runtime():
        set_default_runtime(runtime)
        yield runtime


def attach(run_id: str) -> WorkflowHandler:
    """A handler for any run of the default runtime, from any process.

    Raises:
        RunNotFound: There is no such run.
        NotConfigured: No Redis URL is configured.
    """
    return current_runtime().attach(run_id)
