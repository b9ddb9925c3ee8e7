"""What all routes of a server share: the deployment, the served workflows, and looking up handlers."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ...orchestration.connection.keys import check_run_id
from ...orchestration.engine.worker_directory import seen_workers
from ...orchestration.model.commands import WhenBusy
from ...orchestration.model.errors import (
    RunNotFound,
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowValidationError,
)
from ...orchestration.sessions.look import current_run, handler_record
from ...orchestration.sessions.names import is_plain, session_of
from ...orchestration.store.replies import RunRecord
from ...orchestration.store.verbs import Store
from ...orchestration.streams.reader import StreamHub
from ...tasks.client.handler import WorkflowHandler
from ...tasks.client.runtime import Runtime, current_runtime
from ...tasks.client.workflow import Workflow
from ...tasks.context.ctx import Context
from ...tasks.events.event import Event, StartEvent
from ...tasks.events.run_events import SYSTEM_EVENTS
from ...tasks.steps.discovery import steps_of
from ...tasks.workflow.definition import WorkflowDefinition
from .cursors import Cursors
from .protocol import HandlerData, handler_data

logger = logging.getLogger("umbel.server")

#: Live events, and their bytes, that are buffered for one slow reader; beyond that it reads from the log.
READER_EVENTS, READER_BYTES = 25, 1 << 17
#: How long the list of workers is cached: if it has a worker for the workflow, and if it has none.
WORKERS_CACHE_SECONDS, NO_WORKERS_CACHE_SECONDS = 1.0, 0.2
#: Option of a run: the name its workflow was served under. One workflow may be served under several names.
ROUTE = "served_as"
#: Option of a run that was started with an idempotency key: which of the requests with this key started it.
REQUEST = "request"


@dataclass(frozen=True)
class ServedWorkflow:
    """One workflow that this server serves.

    Attributes:
        name: In its URL.
        workflow: The workflow.
        additional_events: Event classes that are in no step's signature.
    """

    name: str
    workflow: Workflow
    additional_events: tuple[type[Event], ...] = ()

    @property
    def events(self) -> list[type[Event]]:
        """The classes that clients may receive, those in signatures first."""
        return list(dict.fromkeys([*self.workflow.events, *self.additional_events]))

    @property
    def accepted_events(self) -> list[type[Event]]:
        """The classes that clients may send: a step accepts or awaits them, and they are not umbel's own."""
        steps = steps_of(type(self.workflow)).values()
        accepted = [cls for cls in self.workflow.events if any(config.accepts(cls) for config in steps)]
        found = dict.fromkeys([*accepted, *self.additional_events])
        return [cls for cls in found if not issubclass(cls, SYSTEM_EVENTS)]


@dataclass
class ServedDeployment:
    """The deployment and the served workflows. Thread-safe.

    Attributes:
        given_runtime: The runtime to serve; None for the default one, looked up when first needed.
        accept_context_api: Whether a run request may contain a snapshot to start from.
        heartbeat_seconds: Seconds without an event after which a comment is sent; None for never.
        slow_reader_seconds: A stream whose client reads nothing for this long is closed.
        reauthorize_seconds: How often `authorize` is called again for an open stream.
        no_worker_seconds: How long a request waits for a run while no live worker has its code.
        workflows: By the name they are served under.
        is_stopped: The server was stopped.
        readers: Number of open streams.
    """

    given_runtime: Runtime | None
    accept_context_api: bool = False
    heartbeat_seconds: float | None = 25.0
    slow_reader_seconds: float = 60.0
    reauthorize_seconds: float = 30.0
    no_worker_seconds: float = 10.0
    workflows: dict[str, ServedWorkflow] = field(default_factory=dict)
    is_stopped: bool = False
    readers: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _hub: StreamHub | None = None
    _workers: tuple[float, frozenset[str]] = (0.0, frozenset())

    @property
    def runtime(self) -> Runtime:
        """The runtime that starts and finds runs.

        Raises:
            NotConfigured: No Redis URL is configured.
        """
        return self.given_runtime if self.given_runtime is not None else current_runtime()

    @property
    def store(self) -> Store:
        """The deployment's runs."""
        return self.runtime.store

    async def cursors(self) -> Cursors:
        """What seals the cursors of lists, and derives ids of runs from idempotency keys; for one request.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        return await Cursors.of(self.store)

    @property
    def hub(self) -> StreamHub:
        """Reads streams: one connection for all readers of this server, with a small buffer for each.

        Raises:
            HTTPException: 503, the server has been stopped.
        """
        store = self.store
        with self._lock:
            if self.is_stopped:
                raise HTTPException(503, "This server is stopping. Retry.")
            if self._hub is None or self._hub.store is not store:
                self._close_hub()
                self._hub = StreamHub(
                    store, buffer_events=READER_EVENTS, buffer_bytes=READER_BYTES, page_events=READER_EVENTS
                )
            return self._hub

    def stop(self) -> None:
        """Open no more streams and close the open ones. Runs continue in the workers."""
        with self._lock:
            self.is_stopped = True
            self._close_hub()

    def _close_hub(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    # -- workflows -------------------------------------------------------------------------------------------------

    def add(self, served: ServedWorkflow) -> None:
        """Serve a workflow.

        Raises:
            WorkflowConfigurationError: The name cannot be part of a URL, or is taken.
            WorkflowValidationError: The workflow is invalid.
        """
        name = served.name
        if not isinstance(name, str) or not name.isprintable() or not name or "/" in name or name in (".", ".."):
            raise WorkflowConfigurationError(
                f"A workflow cannot be served as {name!r}: the name is part of a URL and must be printable text "
                "without '/', such as 'orders'."
            )
        if name in self.workflows and self.workflows[name].workflow is not served.workflow:
            raise WorkflowConfigurationError(
                f"Another workflow is already served as {name!r}. Choose a different name."
            )
        if not isinstance(served.workflow, Workflow):
            raise WorkflowValidationError(
                f"add_workflow({name!r}, …) expects an instance of Workflow, got {served.workflow!r}."
            )
        WorkflowDefinition.ensure_valid(served.workflow)
        self.workflows[name] = served

    def served(self, name: str) -> ServedWorkflow:
        """The workflow served under this name.

        Raises:
            HTTPException: 404, none is.
        """
        found = self.workflows.get(name)
        if found is None:
            raise HTTPException(404, "Workflow not found")
        return found

    def routes(self) -> dict[str, str]:
        """Workflow name -> the first name it is served under."""
        return {each.workflow.workflow_name: each.name for each in reversed(self.workflows.values())}

    def served_of(self, record: RunRecord) -> ServedWorkflow | None:
        """The served workflow of a run: by the name it was started under, else the first; None if not served here."""
        named = self.workflows.get(str(record.options.get(ROUTE, "")))
        if named is not None and named.workflow.workflow_name == record.workflow:
            return named
        same = (each for each in self.workflows.values() if each.workflow.workflow_name == record.workflow)
        return next(same, None)

    # -- runs ------------------------------------------------------------------------------------------------------

    async def record(self, handler_id: str) -> tuple[RunRecord, ServedWorkflow]:
        """A handler's current run, and its served workflow.

        Raises:
            HTTPException: 404, the handler does not exist, or its workflow is not served here.
        """
        record = await self.any_record(handler_id)
        served = self.served_of(record)
        if served is None:
            raise HTTPException(404, "Handler not found")
        return record, served

    async def any_record(self, handler_id: str) -> RunRecord:
        """A handler's current run, of any workflow.

        Raises:
            HTTPException: 404, the handler does not exist.
        """
        try:
            return await handler_record(self.store, handler_id)
        except RunNotFound as error:
            raise HTTPException(404, "Handler not found") from error

    async def addressed(self, request: Request) -> tuple[RunRecord, ServedWorkflow]:
        """The run that a path names: a handler's current run, or a run of a session.

        Raises:
            HTTPException: 404, it does not exist, or its workflow is not served here.
        """
        params = request.path_params
        if "handler_id" in params:
            return await self.record(params["handler_id"])
        run_id = params["run_id"]
        try:
            record = await self.store.run(check_run_id(run_id))
        except (RunNotFound, WorkflowRuntimeError) as error:
            raise HTTPException(404, "Run not found") from error
        served = self.served_of(record)
        if served is None or session_of(run_id) != params["session_id"]:
            raise HTTPException(404, "Run not found")
        return record, served

    def handler(self, record: RunRecord, served: ServedWorkflow) -> WorkflowHandler:
        """The handler object of a run."""
        return self.runtime.handler(record.run_id, served.workflow)

    async def start(
        self,
        served: ServedWorkflow,
        event: StartEvent | None,
        session: str | None,
        when_busy: WhenBusy,
        context: Context[Any] | None,
        start_id: str | None = None,
        request_id: str | None = None,
    ) -> str:
        """Start a run and return its id.

        Args:
            served: The workflow.
            event: The start event; None continues with the work in `context`.
            session: The session, or named handler, whose next run it is.
            when_busy: What to do while another run of the session is running.
            context: A snapshot to start from.
            start_id: See `Runtime.start`.
            request_id: Stored with the run if this call creates it.

        Raises:
            SessionBusy, SessionFull, SessionClosed: The session does not accept the run.
            StoreUnavailable: Redis did not answer.
            UmbelError: The event or the context cannot be stored.
        """
        about = session, when_busy, context, start_id, request_id
        return (await run_in_threadpool(self._start, served, event, *about)).run_id

    def _start(
        self,
        served: ServedWorkflow,
        event: StartEvent | None,
        session: str | None,
        when_busy: WhenBusy,
        context: Context[Any] | None,
        start_id: str | None,
        request_id: str | None,
    ) -> WorkflowHandler:
        # In a thread: the workflow may read its configuration, and the runtime may start a worker.
        workflow = served.workflow
        WorkflowDefinition.ensure_valid(workflow)
        arguments = WorkflowDefinition.run_arguments(workflow)
        arguments["options"][ROUTE] = served.name
        if request_id is not None:
            arguments["options"][REQUEST] = request_id
        if context is not None:
            beginning = context.beginning_of_run(workflow, has_new_input=event is not None)
            arguments["begin_with"] = beginning.snapshot
        arguments |= {"session": session, "when_busy": when_busy, "start_id": start_id}
        return self.runtime.start(workflow, event, **arguments)

    async def purge(self, handler_id: str) -> bool:
        """Delete a handler whose run has ended: that run, its state, and the run with the handler's id.

        Returns:
            Whether nothing is left: False if a run that waited for its turn is now running.
        """
        found = await current_run(self.store, handler_id)
        runs = dict.fromkeys([found, handler_id if is_plain(handler_id) else ""])
        return all([await self.store.purge(run_id) for run_id in runs if run_id])

    def count_reader(self, change: int) -> None:
        """Record that a stream was opened (1) or closed (-1)."""
        self.readers += change

    async def data(self, record: RunRecord, served: ServedWorkflow, *, of_session: bool = False) -> HandlerData:
        """A run as a handler, or of a session; if it is running and no live worker can execute it, with an error."""
        no_worker = await self.no_worker_for(record)
        return handler_data(record, served.name, no_worker=no_worker, of_session=of_session)

    async def no_worker_for(self, record: RunRecord) -> str | None:
        """An error text if no live worker has the run's code; None if one has, or the run has just begun."""
        if record.status != "running" or await self.is_served(record.workflow):
            return None
        # A starting worker registers with its first sweeps.
        grace = max(2.0, 2 * self.store.settings.sweep_seconds)
        if (await self.now() - record.created_at) / 1000 < grace:
            return None
        return (
            f"No live worker serves {record.workflow!r}. The run is stored and continues once one does: start "
            "`umbel worker`."
        )

    async def now(self) -> int:
        """Redis time in ms.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        seconds, microseconds = await self.store.command("ask for the time", "TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def is_served(self, workflow: str) -> bool:
        """Whether a live worker has the code of this workflow, by its own name."""
        now = time.monotonic()
        seen_at, names = self._workers
        if now - seen_at > (WORKERS_CACHE_SECONDS if workflow in names else NO_WORKERS_CACHE_SECONDS):
            seen = await seen_workers(self.store)
            names = frozenset(name for each in seen if each.is_live for name in each.workflows)
            self._workers = (now, names)
        return workflow in names
