"""`Session`: runs that share one `ctx.store`, one at a time, in order."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

from ...orchestration.model.commands import WhenBusy
from ...orchestration.model.errors import RunNotFound, SessionBusy, WorkflowRuntimeError
from ...orchestration.sessions.acts import close_session, delete_session, open_session
from ...orchestration.sessions.listing import SessionQuery, all_sessions
from ...orchestration.sessions.look import (
    SessionRecord,
    SessionStatus,
    begun_runs,
    current_run,
    session_record,
    waiting_runs,
)
from ...orchestration.sessions.names import state_id_for
from ...orchestration.snapshots.saved import RunSnapshot
from ...orchestration.state.redis_hash import Occupied, StateHash
from ..events.event import Event, StartEvent
from ..state.access import StateAccess
from ..state.fields import CLASS_FIELD, StateFields
from ..state.store import DictState, StateStore
from ..workflow.definition import WorkflowDefinition
from ..workflow.start_events import start_event_for
from .handler import ResultT, WorkflowHandler
from .runtime import Runtime, current_runtime
from .workflow import Workflow

T = TypeVar("T")

#: How a run uses a session's state: in its turn ("write"), or at any time on a copy that it can change ("copy") or not.
Access = Literal["write", "read", "copy"]

#: How long setting a state back waits for the end of an edit, and how often it asks.
EDIT_PATIENCE_SECONDS, EDIT_PAUSE_SECONDS = 60.0, 0.05


class HasStateVersion(Protocol):
    """Something that names a version of a state: a point in a run's history."""

    @property
    def state_version(self) -> int:
        """The version."""
        ...


@dataclass(frozen=True, slots=True)
class SessionVersion:
    """A version of a session's state between two of its runs.

    Attributes:
        version: How often the state had been written.
        after: The run that left the state like this; None for the state with which the oldest kept run began.
    """

    version: int
    after: str | None


class Session:
    """A name for runs that share one state: a conversation, a customer, a document.

    Its runs execute one at a time, in the order in which they were started, in any processes. Different
    sessions do not delay each other. Runs of different workflows may belong to one session.

    Methods described as "to be awaited" may also be called without a running event loop: then they block, and return
    the awaited value. The others block for a request or two.
    """

    def __init__(self, name: str, runtime: Runtime | None = None) -> None:
        """Makes no request to Redis.

        Args:
            name: 1 to 128 bytes of text without "/" and control characters.
            runtime: What executes its runs; by default each workflow's own runtime.

        Raises:
            WorkflowRuntimeError: The name is invalid.
        """
        #: The escaped name; the ids of its runs begin with it.
        self.state_id = state_id_for(name)
        self.name = name
        self._given_runtime = runtime

    def __repr__(self) -> str:
        return f"Session({self.name!r})"

    # -- runs ----------------------------------------------------------------------------------------------------------

    def run(
        self,
        workflow: Workflow[ResultT],
        start_event: StartEvent | None = None,
        *,
        when_busy: WhenBusy = "queue",
        access: Access = "write",
        **kwargs: Any,
    ) -> WorkflowHandler[ResultT]:
        """Start a run in this session and return its handler at once.

        *Promise:* of any number of runs, started by any processes, one executes at a time; the script that ends it,
        however it ends, begins the next one. No waiting run loses its place when a process is killed.

        Args:
            workflow: What to run.
            start_event: The start event; by default it is made from the keyword arguments.
            when_busy: What to do while another run is running. "queue": wait until it and the runs that are already
                waiting have ended; the handler's status is "queued" until then. "reject": raise `SessionBusy`.
                "interrupt": cancel the running run, keep its writes to `ctx.store`, and begin at once, before the
                waiting runs. "rollback": the same, but restore the state from before that run. "join": send the start
                event to the running run, as `send` does, and return the handler of that run.
            access: "write": the run waits for its turn. "read" and "copy": it does not wait; it executes concurrently,
                does not belong to the session, and has a copy of the state at its start. With "read" its steps cannot
                change the copy.
            **kwargs: Fields of the start event.

        Raises:
            SessionBusy: Another run is running ("reject"), or the state before it is no longer kept ("rollback").
            SessionFull: `session_max_waiting` runs are already waiting.
            SessionClosed: The session was closed.
            WorkflowRuntimeError, WorkflowValidationError, NotConfigured, StoreUnavailable: As `Workflow.run`.
        """
        WorkflowDefinition.ensure_valid(workflow)
        event = start_event_for(workflow, start_event, kwargs)
        if access == "write":
            return self._start(workflow, event, when_busy)
        if access not in get_args(Access):
            raise WorkflowRuntimeError(f"access={access!r} is not known. Choose one of: {', '.join(get_args(Access))}.")
        runtime, arguments = self._runtime_for(workflow), WorkflowDefinition.run_arguments(workflow)
        arguments["options"] |= {"session": self.name, "access": access}
        state = runtime.portal.call(self._hash(runtime).read_all())
        begin_with = RunSnapshot(workflow=workflow.workflow_name, status="completed", state=state)
        return runtime.start(workflow, event, begin_with=begin_with, **arguments)

    def send(self, event: StartEvent | Event, *, start: Workflow) -> Any:
        """Send an event to the running run; if there is none, start a run with it. To be awaited.

        *Promise:* exactly one of the two has happened once this has returned; at most one if the caller dies before.

        Args:
            event: A start event of `start`. A step of the running run must accept it or wait for it.
            start: What to run if no run is running.

        Returns:
            The handler of the run that received the event.

        Raises:
            WorkflowRuntimeError: The event is not a start event of `start`, or is not accepted, as in
                `handler.send_event`.
            SessionClosed: No run is running, and the session was closed.
        """
        WorkflowDefinition.ensure_valid(start)
        if not isinstance(event, start.start_event_class):
            raise WorkflowRuntimeError(
                f"send({type(event).__name__}, start=…) to session {self.name!r} may have to start "
                f"{start.workflow_name!r}, which starts with {start.start_event_class.__name__}. Send such an event."
            )
        return self._do(lambda: self._start(start, event, "join"))

    def _start(self, workflow: Workflow, event: StartEvent, when_busy: WhenBusy) -> WorkflowHandler:
        runtime = self._runtime_for(workflow)
        return runtime.start(
            workflow, event, session=self.name, when_busy=when_busy, **WorkflowDefinition.run_arguments(workflow)
        )

    def current(self) -> WorkflowHandler | None:
        """The current run of the session: the running one, else the last one that ended; None before the first run."""
        run_id = self._ask(current_run)
        try:
            return self._runtime.attach(run_id) if run_id else None
        except RunNotFound:
            return None

    def waiting(self) -> list[WorkflowHandler]:
        """The runs that wait for their turn, in order. Each can be cancelled."""
        return [self._runtime.attach(run_id) for run_id in self._ask(waiting_runs)]

    def runs(self, limit: int = 50) -> list[WorkflowHandler]:
        """Runs that have begun and are still kept, newest first; at most the newest 1,000 are listed."""
        return [self._runtime.attach(run.run_id) for run in self._ask(begun_runs, limit)]

    def record(self) -> SessionRecord | None:
        """The session as it is now; None if there is no session with this name."""
        found: SessionRecord | None = self._ask(session_record)
        return found

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self, version: int | None = None) -> Any:
        """A copy of the current state, or of the state at a version. To be awaited.

        Its class is the one that the steps of the session's last run declare, if it is loaded here, else `DictState`.

        Args:
            version: As in `versions`; the last 1,000 writes are kept, none with `history="summary"`.

        Raises:
            WorkflowRuntimeError: There is no such version, or it is no longer kept.
        """
        return self._do(lambda: self._fields().load(self._raw(version)))

    def stored_state(self, version: int | None = None) -> dict[str, Any]:
        """The state as it is stored: top-level keys with JSON values that are not converted to objects.

        Args:
            version: As in `state`.

        Raises:
            WorkflowRuntimeError: As in `state`.
        """
        return {key: json.loads(raw) for key, raw in self._raw(version).items() if key != CLASS_FIELD}

    @asynccontextmanager
    async def edit_state(self) -> AsyncIterator[Any]:
        """Change the state from outside the session's runs while nobody else does, as `ctx.store.edit_state`."""
        runtime = self._runtime
        fields = await asyncio.to_thread(self._fields)
        store = StateStore(StateAccess(runtime.store, fields.run_id, self.state_id, fields.cls, None))
        async with store.edit_state() as state:
            yield state

    def versions(self) -> list[SessionVersion]:
        """The versions of the state after each run, the current one first."""
        runs = self._ask(begun_runs)
        present = self._runtime.portal.call(self._hash(self._runtime).version())
        left = [present, *(run.version for run in runs)]
        after: list[str | None] = [run.run_id for run in runs]
        return [SessionVersion(*each) for each in zip(left, [*after, None], strict=True)]

    def rewind(self, *, to: int | WorkflowHandler | HasStateVersion) -> Any:
        """Set the state back to an earlier version, between two runs. To be awaited.

        *Promise:* one write, which creates a new version. The same script checks that no run is running or waiting.

        Args:
            to: A version; a run of the session, for the state that it left; or a point in a run's history.

        Returns:
            The version that this creates.

        Raises:
            SessionBusy: A run is running or waiting.
            WorkflowRuntimeError: There is no such version, or it is no longer kept; the session has no such run.
        """
        return self._do(lambda: self._put_back(self._version_of(to)))

    def fork(self, name: str, at: int | WorkflowHandler | HasStateVersion | None = None) -> Any:
        """Create another session that begins with this one's state. To be awaited.

        The new session has none of this one's runs, and its versions start from the beginning.

        Args:
            name: Name of the new session.
            at: Which version of the state, as in `rewind`; by default the current one.

        Returns:
            The new session.

        Raises:
            SessionExists: A session or a run has this name.
            WorkflowRuntimeError: As in `rewind`.
        """

        def fork() -> Session:
            state = self._raw(None if at is None else self._version_of(at))
            made = Session(name, self._given_runtime)
            self._runtime.portal.call(open_session(self._runtime.store, name, state, source=self.name))
            return made

        return self._do(fork)

    # -- the session as a whole ----------------------------------------------------------------------------------------

    def close(self) -> Any:
        """Accept no more runs; running and waiting runs continue. To be awaited."""
        return self._do(lambda: self._ask(close_session))

    def delete(self) -> Any:
        """Delete the session, its state and everything stored for its runs. To be awaited.

        Raises:
            SessionBusy: A run is running or waiting.
        """
        return self._do(lambda: self._ask(delete_session))

    # -- shared --------------------------------------------------------------------------------------------------------

    @property
    def _runtime(self) -> Runtime:
        return current_runtime() if self._given_runtime is None else self._given_runtime

    def _runtime_for(self, workflow: Workflow) -> Runtime:
        return workflow.runtime if self._given_runtime is None else self._given_runtime

    def _ask(self, coroutine: Callable[..., Any], *more: Any) -> Any:
        return self._runtime.portal.call(coroutine(self._runtime.store, self.name, *more))

    @staticmethod
    def _do(blocking: Callable[[], T]) -> Any:
        """On an event loop start at once, even if the result is never awaited; elsewhere block and return the value."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return blocking()
        return loop.run_in_executor(None, blocking)

    def _hash(self, runtime: Runtime) -> StateHash:
        # Writes are journaled with the session's current run. Before the first run there is none; the id used then
        # still leads to the session's keys.
        at = runtime.portal.call(current_run(runtime.store, self.name)) or f"{self.state_id}.none"
        return StateHash(runtime.store, at, self.state_id)

    def _fields(self) -> StateFields[Any]:
        at, found = self._hash(self._runtime).run_id, None
        with suppress(RunNotFound):
            registered = self._runtime.registry.find(self._runtime.portal.call(self._runtime.store.run(at)).workflow)
            found = registered.state_class if registered else None
        return StateFields(found or DictState, at, self._runtime.settings)

    def _raw(self, version: int | None) -> dict[str, bytes]:
        state = self._hash(self._runtime)
        if version is None:
            return self._runtime.portal.call(state.read_all())
        found = self._runtime.portal.call(state.read_version(version))
        if found is None:
            raise self._no_version(version)
        return found

    def _version_of(self, at: int | WorkflowHandler | HasStateVersion) -> int:
        if isinstance(at, int):
            return at
        if not isinstance(at, WorkflowHandler):
            return at.state_version
        for version in self.versions():
            if version.after == at.run_id:
                return version.version
        raise WorkflowRuntimeError(
            f"Session {self.name!r} has no run {at.run_id!r}. Its runs are listed by session.runs()."
        )

    def _put_back(self, version: int) -> int:
        until = time.monotonic() + EDIT_PATIENCE_SECONDS
        while True:
            answer = self._runtime.portal.call(self._hash(self._runtime).put_back(version, idle=True))
            if answer is None:
                raise self._no_version(version)
            if answer == "busy" or (isinstance(answer, Occupied) and time.monotonic() > until):
                raise SessionBusy(
                    f"The state of session {self.name!r} cannot be set back to version {version} while one of its "
                    "runs is running or waiting, or its state is edited. Wait for their end, or cancel them."
                )
            if isinstance(answer, int):
                return answer
            time.sleep(EDIT_PAUSE_SECONDS)

    def _no_version(self, version: int) -> WorkflowRuntimeError:
        return WorkflowRuntimeError(
            f"Session {self.name!r} has no version {version} of its state, or what was written since is not kept: the "
            'last 1,000 writes are, and none with history="summary". session.versions() lists what its runs have left.'
        )


def session(name: str) -> Session:
    """The session with this name on the default runtime; makes no request to Redis. See `Session`.

    Raises:
        WorkflowRuntimeError: The name is invalid.
    """
    return Session(name)


def sessions(prefix: str = "", *, status: SessionStatus | None = None, limit: int = 100) -> list[SessionRecord]:
    """Sessions of the default runtime, those whose runs have begun or ended most recently first.

    Args:
        prefix: Only sessions whose names begin with this.
        status: Only sessions that are "busy" (a run is running), or only those that are "idle".
        limit: At most this many.

    Raises:
        NotConfigured, StoreUnavailable: There is no Redis to ask.
    """
    runtime = current_runtime()
    return runtime.portal.call(all_sessions(runtime.store, SessionQuery(prefix, status, limit)))
