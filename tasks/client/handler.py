"""`WorkflowHandler`: the caller's view of a run, awaited or blocking, from any process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterator
from typing import Any, Generic, cast
from weakref import WeakSet

from pydantic import BaseModel
from typing_extensions import TypeVar, deprecated

from ...orchestration.engine.children.listing import child_runs
from ...orchestration.engine.protocol import Engine
from ...orchestration.history.points import RunAt
from ...orchestration.model.decide import Limits
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import (
    ResultUnreadable,
    UnknownEvent,
    WorkflowCancelledByUser,
    WorkflowFailed,
)
from ...orchestration.model.plan import Plan
from ...orchestration.store.replies import RunEnd, RunRecord
from ...orchestration.streams.ends import StartedRun
from ...orchestration.streams.reader import StreamEvent, StreamHub, StreamReader
from ..context.ctx import Context
from ..context.results import result_of
from ..context.run_context import RunContext
from ..events.codec import EventMismatch, EventRegistry, decode_event, unreadable
from ..events.event import Event, StopEvent, event_name
from ..events.run_events import UnreadableEvent
from ..events.serializers import BaseSerializer
from .actions import WithActions
from .past import WithPast
from .readings import BlockingFamilyReading, FamilyReading, Reading, gap_before
from .settled import SettledList

T = TypeVar("T")
#: The result type of a run.
ResultT = TypeVar("ResultT", default=Any)


class WorkflowHandler(WithPast, WithActions, Generic[ResultT]):
    """The caller's view of a run: `await handler` for its result, or `handler.result()` without an event loop.

    Any number of handlers, in any processes, may refer to one run.
    """

    def __init__(
        self,
        run_id: str,
        *,
        engine: Engine,
        hub: StreamHub,
        limits: Limits,
        events: EventRegistry | None,
        code: Plan | None,
        state_class: type[BaseModel] | None,
        serializer: BaseSerializer | None = None,
        started: StartedRun | None = None,
    ) -> None:
        """Made by `Workflow.run()` and `umbel.attach()`."""
        self.run_id = run_id
        self._engine, self._hub, self._limits = engine, hub, limits
        self._portal = engine.store.connection.portal
        self._code = code
        self._events = events or EventRegistry.of()
        self._state_class, self._serializer = state_class, serializer
        self._started = started
        self._stopped_at: int | None = None
        self._readings: WeakSet[Reading] = WeakSet()
        self._ctx: Context[Any] | None = None
        self._at_end: Callable[[], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        return f"WorkflowHandler(run_id={self.run_id!r})"

    @property
    def ctx(self) -> Context[Any]:
        """The run's context as its caller sees it: the state, sending events, snapshots."""
        if self._ctx is None:
            self._ctx = Context.over(self._face())
        return self._ctx

    def give_context(self, ctx: Context[Any]) -> None:
        """Make the context with which the run was started the run's context."""
        ctx.becomes(self._face())
        self._ctx = ctx

    def _face(self) -> RunContext:
        return RunContext(
            self._engine.store,
            self.run_id,
            self._state_class,
            self._events,
            send=lambda event, step: self._portal.call(self._send(event, step)),
            stream=lambda: self.stream_events(expose_internal=True),
            result=self._awaited,
            serializer=self._serializer,
        )

    # -- result ----------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, ResultT]:
        return self._awaited().__await__()

    def at_end(self, act: Callable[[], Awaitable[None]]) -> None:
        """Set an action to execute once, when the handler is awaited and the run has ended, before it returns."""
        self._at_end = act

    async def _awaited(self) -> ResultT:
        end = await self._hub.await_ended(self.run_id, started=self._started)
        if (act := self._at_end) is not None:
            self._at_end = None
            await act()
        return self._outcome(end)

    def result(self, timeout: float | None = None) -> ResultT:
        """Wait for the run's result. Blocks.

        For a `StopEvent` the result is its `result`; for a subclass it is the event itself.

        Args:
            timeout: Seconds to wait. The run continues afterwards.

        Raises:
            TimeoutError: The run has not ended in time.
            WorkflowTimeoutError, WorkflowCancelledByUser: The run ended this way.
            ResultUnreadable: Its result cannot be read here; another process may be able to read it.
            Exception: The run failed: the exception that its step raised, of its own type.
        """
        self._refuse_blocking("result", "await handler")
        return self._outcome(self._hub.wait_ended(self.run_id, timeout, self._started))

    async def stop_event_result(self) -> StopEvent:
        """Wait for the end and return the event that ended the run, even if the run failed or was cancelled."""
        await self._hub.await_ended(self.run_id, started=self._started)
        event = self.get_stop_event()
        assert event is not None  # the run has ended
        return event

    def get_stop_event(self) -> StopEvent | None:
        """The event that ended the run; None while it is running."""
        record = self._record()
        if record.ending is None:
            return None
        return self._ending(record.status, record.ending)

    def is_done(self) -> bool:
        """Whether the run has ended, in any way."""
        return self._record().status != "running"

    def status(self) -> str:
        """queued (waiting for its turn in a session), running, completed, failed, cancelled or timed_out."""
        record = self._record()
        return "queued" if record.is_queued else record.status

    def _record(self) -> RunRecord:
        return self._portal.call(self._engine.store.run(self.run_id))

    def _outcome(self, end: RunEnd) -> ResultT:
        if end.ending is None:
            raise WorkflowFailed(f"Run {self.run_id!r} ended as {end.status}, and no reason was recorded.")
        if end.status == "cancelled":
            raise WorkflowCancelledByUser(f"Run {self.run_id!r} was cancelled.")
        return cast(ResultT, result_of(self.run_id, self._ending(end.status, end.ending)))

    def _ending(self, status: str, ending: Envelope) -> StopEvent:
        try:
            event = decode_event(ending, self._events)
        except (UnknownEvent, EventMismatch) as error:
            raise ResultUnreadable(
                f"Run {self.run_id!r} is {status}, but its result cannot be read here. {error}"
            ) from error
        assert isinstance(event, StopEvent)  # only such events end a run
        return event

    # -- stream ----------------------------------------------------------------------------------------------------

    def stream_events(
        self,
        expose_internal: bool = False,
        types: Collection[type[Event]] | None = None,
        include_children: bool = False,
    ) -> AsyncIterator[Event]:
        """The run's events as they are published, from the first one; ends with the run.

        Every call reads from the log, so late and additional readers see everything. If reading was interrupted, the
        next call on the same handler resumes where it stopped.

        Args:
            expose_internal: Also step state changes, idleness and unhandled events.
            types: Only events of exactly these classes; the iterator still ends with the run.
            include_children: Also the events of all descendant runs, from their first ones; those of each run in
                order, those of different runs not. The attribute `origin` of the iterator is then the id of the run
                that published the latest event.
        """
        if include_children:
            return FamilyReading(self, expose_internal, types)
        reader = self._hub.reader(self.run_id, self._take_position(), expose_internal, self._names(types))
        reading = Reading(self, reader, tells_gaps=types is None or UnreadableEvent in types)
        self._readings.add(reading)
        return reading

    def broke_off(self, position: int) -> None:
        """A reader stopped after the event with this number; the next one resumes there."""
        self._stopped_at = position

    def decoded(self, found: StreamEvent) -> Event:
        """A published event as an instance of its class, or an `UnreadableEvent` in its place."""
        envelope = found.envelope
        try:
            return decode_event(envelope, self._events)
        except (UnknownEvent, EventMismatch) as error:
            return unreadable(envelope, error)

    def events(
        self,
        expose_internal: bool = False,
        types: Collection[type[Event]] | None = None,
        timeout: float | None = None,
        include_children: bool = False,
    ) -> Iterator[Event]:
        """`stream_events` without an event loop; blocks for each event.

        Raises:
            TimeoutError: No event was published within `timeout` seconds.
        """
        self._refuse_blocking("events", "stream_events")
        if include_children:
            return BlockingFamilyReading(FamilyReading(self, expose_internal, types), self._hub.call, timeout)
        return self._blocking_events(expose_internal, types, timeout)

    def _blocking_events(
        self, expose_internal: bool, types: Collection[type[Event]] | None, timeout: float | None
    ) -> Iterator[Event]:
        reader = self._hub.reader(self.run_id, self._take_position(), expose_internal, self._names(types))
        position: int | None = None
        exhausted = False
        tells_gaps = types is None or UnreadableEvent in types
        try:
            for found in reader.events(timeout):
                if tells_gaps and (gap := gap_before(found, reader)) is not None:
                    tells_gaps = False
                    yield gap
                position = found.seq
                yield self.decoded(found)
            exhausted = True
        finally:
            self._stopped_at = None if exhausted else position

    def published(self, after: int = -1, expose_internal: bool = False) -> StreamReader:
        """The run's events as data, with their numbers, for programs that forward them.

        Args:
            after: Begin after the event with this number; -1 is the beginning.
            expose_internal: Also step state changes, idleness and unhandled events.
        """
        return self._hub.reader(self.run_id, after, expose_internal)

    def _take_position(self) -> int:
        for reading in [each for each in self._readings if each.is_abandoned]:
            reading.break_off()
        position, self._stopped_at = self._stopped_at, None
        return -1 if position is None else position

    @staticmethod
    def _names(types: Collection[type[Event]] | None) -> frozenset[str] | None:
        return None if types is None else frozenset(event_name(cls) for cls in types)

    # -- relatives -----------------------------------------------------------------------------------------------------

    @property
    def parent(self) -> WorkflowHandler | None:
        """The run that started this one as a child; None if it is not a child run."""
        parent = self._record().parent
        return None if parent is None else self.relative(parent)

    def children(self) -> Awaitable[list[WorkflowHandler]]:
        """The child runs that were started, in no order. Blocks without an event loop; to be awaited on one."""
        return self._begun(self._children())

    async def _children(self) -> list[WorkflowHandler]:
        return SettledList([self.relative(child) async for child in child_runs(self._engine.store, self.run_id)])

    def relative(self, run_id: str) -> WorkflowHandler:
        """The handler of another run, of any workflow."""
        about: dict[str, Any] = {"limits": self._limits, "events": None, "code": None, "state_class": None}
        return WorkflowHandler(run_id, engine=self._engine, hub=self._hub, **about)

    def sibling(self, run_id: str) -> WorkflowHandler:
        """The handler of another run of the same workflow."""
        return WorkflowHandler(
            run_id,
            engine=self._engine,
            hub=self._hub,
            limits=self._limits,
            events=self._events,
            code=self._code,
            state_class=self._state_class,
        )

    def _written(self, at: RunAt, serializer: BaseSerializer | None) -> dict[str, Any]:
        return self._face().written(at.snapshot, serializer)

    # -- deprecated ------------------------------------------------------------------------------------------------

    @deprecated("handler.done() is deprecated: use is_done().")
    def done(self) -> bool:
        """Deprecated: `is_done()`."""
        return self.is_done()

    @deprecated("handler.cancelled() is deprecated: use status().")
    def cancelled(self) -> bool:
        """Deprecated: `status()` is "cancelled"."""
        return self.status() == "cancelled"

    @deprecated("handler.exception() is deprecated: use await.")
    def exception(self) -> BaseException | None:
        """Deprecated: the exception that awaiting raises; None if the run has a result.

        Raises:
            asyncio.InvalidStateError: The run has not ended.
            asyncio.CancelledError: The run was cancelled.
        """
        record = self._record()
        if record.status == "running":
            raise asyncio.InvalidStateError(f"Run {self.run_id!r} has not ended.")
        try:
            self._outcome(RunEnd(record.status, record.ending))
        except WorkflowCancelledByUser as error:
            raise asyncio.CancelledError(str(error)) from error
        except Exception as error:
            return error
        return None
