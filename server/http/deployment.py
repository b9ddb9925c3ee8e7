"""What all routes of one server share: the deployment, the workflows it serves, and how a handler is found."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from ...orchestration.engine.sessions import current_run, handler_record, is_plain
from ...orchestration.engine.worker_directory import seen_workers
from ...orchestration.model.errors import RunNotFound, WorkflowConfigurationError, WorkflowValidationError
from ...orchestration.store.blocking import BlockingStore as Store
from ...orchestration.store.replies import RunRecord
from ...orchestration.streams.reader import StreamHub
from ...tasks.client.handler import WorkflowHandler
from ...tasks.client.runtime import Runtime, current_runtime
from ...tasks.client.workflow import Workflow
from ...tasks.context.ctx import Context
from ...tasks.events.event import Event, StartEvent
from .protocol import HandlerData, handler_data

logger = logging.getLogger("umbel.server")

#: Live events, and bytes of them, that wait here for one slow reader; beyond it the reader goes back to the log.
READER_EVENTS, READER_BYTES = 25, 1 << 17
#: How long what was seen of the workers is believed: that one is there, and that none is.
WORKERS_SECONDS, NO_WORKERS_SECONDS = 1.0, 0.2
#: The name a run is served under stands in its options: one workflow may be served under several.
ROUTE = "served_as"


@dataclass(frozen=True)
class Served:
    """One workflow as this server offers it.

    Attributes:
        name: In its address.
        workflow: What is run.
        additional_events: Event classes that its steps' signatures do not show.
    """

    name: str
    workflow: Workflow
    additional_events: tuple[type[Event], ...] = ()

    @property
    def events(self) -> list[type[Event]]:
        """The classes clients may send or will see, those of the signatures first."""
        return list(dict.fromkeys([*self.workflow.events, *self.additional_events]))


@dataclass
class Serving:
    """The deployment and the workflows, as all routes see them. May be used from any thread.

    Attributes:
        given_runtime: The runtime to serve; None is the default one, when it is first needed.
        accept_context_api: Whether a run request may bring a snapshot to begin with.
        heartbeat_seconds: After so long without an event a stream gets a comment; None never.
        slow_reader_seconds: A reader that takes nothing for so long is cut off.
        reauthorize_seconds: How often the hook is asked again about a stream that stays open.
        no_worker_seconds: How long a request that waits for a run bears that no worker has its code.
        workflows: By the name they are served under.
        is_stopped: The server has ended.
        readers: Streams that are open now.
    """

    given_runtime: Runtime | None
    accept_context_api: bool = False
    heartbeat_seconds: float | None = 25.0
    slow_reader_seconds: float = 60.0
    reauthorize_seconds: float = 30.0
    no_worker_seconds: float = 10.0
    workflows: dict[str, Served] = field(default_factory=dict)
    is_stopped: bool = False
    readers: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _hub: StreamHub | None = None
    _workers: tuple[float, frozenset[str]] = (0.0, frozenset())

    @property
    def runtime(self) -> Runtime:
        """Where runs are started and found.

        Raises:
            NotConfigured: Nothing says where Redis is.
        """
        return self.given_runtime if self.given_runtime is not None else current_runtime()

    @property
    def store(self) -> Store:
        """The deployment's runs."""
        return self.runtime.store

    @property
    def hub(self) -> StreamHub:
        """Where streams are read: one connection for all readers of this server, with small buffers for each.

        Raises:
            HTTPException: 503, the server has been stopped.
        """
        runtime = self.runtime
        with self._lock:
            if self.is_stopped:
                raise HTTPException(503, "This server is being stopped. Ask another one, or ask again.")
            if self._hub is None or self._hub.store is not runtime.astore:
                self._close_hub()
                self._hub = StreamHub(
                    runtime.astore, buffer_events=READER_EVENTS, buffer_bytes=READER_BYTES, page_events=READER_EVENTS
                )
            return self._hub

    def stop(self) -> None:
        """Take up nothing more. Runs go on: they are the workers'."""
        with self._lock:
            self.is_stopped = True
            self._close_hub()

    def _close_hub(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    # -- workflows -------------------------------------------------------------------------------------------------

    def add(self, served: Served) -> None:
        """Offer a workflow.

        Raises:
            WorkflowConfigurationError: The name cannot stand in an address, or is taken.
            WorkflowValidationError: The workflow's steps do not fit together.
        """
        name = served.name
        if not isinstance(name, str) or not name.isprintable() or not name or "/" in name or name in (".", ".."):
            raise WorkflowConfigurationError(
                f"{name!r} cannot be the name a workflow is served under: it stands in addresses, so it must be a text "
                "without '/'. Choose one like 'orders'."
            )
        if name in self.workflows and self.workflows[name].workflow is not served.workflow:
            raise WorkflowConfigurationError(f"Two workflows are served as {name!r}. Give one of them another name.")
        if not isinstance(served.workflow, Workflow):
            raise WorkflowValidationError(
                f"add_workflow({name!r}, …) takes an instance of a Workflow, got {served.workflow!r}. Call the class."
            )
        served.workflow.ensure_valid()
        self.workflows[name] = served

    def served(self, name: str) -> Served:
        """A workflow by the name in an address.

        Raises:
            HTTPException: 404, there is none.
        """
        found = self.workflows.get(name)
        if found is None:
            raise HTTPException(404, "Workflow not found")
        return found

    def served_of(self, record: RunRecord) -> Served | None:
        """What a run is a run of: the name it was started under, else the first of its workflow; None if not ours."""
        named = self.workflows.get(str(record.options.get(ROUTE, "")))
        if named is not None and named.workflow.workflow_name == record.workflow:
            return named
        same = (each for each in self.workflows.values() if each.workflow.workflow_name == record.workflow)
        return next(same, None)

    # -- runs ------------------------------------------------------------------------------------------------------

    def record(self, handler_id: str) -> tuple[RunRecord, Served]:
        """The run a handler is at, and what it is a run of. Blocks.

        Raises:
            HTTPException: 404, there is no such handler, or its workflow is not served here.
        """
        try:
            record = handler_record(self.store, handler_id)
        except RunNotFound as error:
            raise HTTPException(404, "Handler not found") from error
        served = self.served_of(record)
        if served is None:
            raise HTTPException(404, "Handler not found")
        return record, served

    def handler(self, record: RunRecord, served: Served) -> WorkflowHandler:
        """Acts on a run."""
        return self.runtime.handler(record.run_id, served.workflow)

    def start(
        self, served: Served, event: StartEvent | None, handler_id: str | None, context: Context[Any] | None
    ) -> str:
        """Begin a run; its id. Blocks.

        Args:
            served: What to run.
            event: The start event; None goes on with the work in `context`.
            handler_id: The named handler whose next run it is.
            context: A state, and perhaps work, to begin with.

        Raises:
            HandlerRunning: That handler's run has not ended.
            StoreUnavailable: Redis did not answer.
            UmbelError: The event or the context cannot be stored.
        """
        workflow = served.workflow
        workflow.ensure_valid()
        arguments = workflow.run_arguments()
        arguments["options"][ROUTE] = served.name
        if context is not None:
            beginning = context.beginning_of_run(workflow, has_new_input=event is not None)
            arguments["begin_with"] = beginning.snapshot
        return self.runtime.start(workflow, event, handler_id=handler_id, **arguments).run_id

    def purge(self, handler_id: str) -> None:
        """Forget a handler whose run has ended: that run, the state, and what it was called after. Blocks."""
        found = current_run(self.store, handler_id)
        for run_id in dict.fromkeys([found.before, handler_id if is_plain(handler_id) else ""]):
            if run_id:
                self.store.purge(run_id)

    def count_reader(self, change: int) -> None:
        """A stream was opened (1) or has ended (-1)."""
        self.readers += change

    def data(self, record: RunRecord, served: Served) -> HandlerData:
        """A run as its handler; of one that goes on also whether nobody is there to execute it. Blocks."""
        return handler_data(record, served.name, no_worker=self.no_worker_for(record))

    def no_worker_for(self, record: RunRecord) -> str | None:
        """Why a run does not go on: no worker with its code is alive; None when one is, or it has only just begun."""
        if record.status != "running" or self.is_served(record.workflow):
            return None
        seconds, microseconds = self.store.read("ask for the time", self.store.client.time)
        # A worker that begins announces itself with its first sweeps.
        patience = max(2.0, 2 * self.store.settings.sweep_seconds)
        if seconds + microseconds / 1e6 - record.created_at / 1000 < patience:
            return None
        return (
            f"No live worker serves {record.workflow!r}. The run is stored and goes on as soon as one does: "
            "start it with `umbel worker`."
        )

    def is_served(self, workflow: str) -> bool:
        """Whether a live worker has the code of this workflow, by its own name. Blocks."""
        now = time.monotonic()
        seen_at, names = self._workers
        if now - seen_at > (WORKERS_SECONDS if workflow in names else NO_WORKERS_SECONDS):
            seen = seen_workers(self.store)
            names = frozenset(name for each in seen if each.is_live for name in each.workflows)
            self._workers = (now, names)
        return workflow in names
