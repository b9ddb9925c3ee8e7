"""Readers of streams: of one run, or of a run with its child runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any, Protocol, Self
from weakref import ReferenceType, ref

from ...orchestration.streams.reader import StreamEvent, StreamReader
from ..events.event import Event, InternalDispatchEvent, StopEvent
from ..events.run_events import ChildRunStarted, UnreadableEvent


class Readable(Protocol):
    """The methods of a handler that readers need."""

    run_id: str

    def decoded(self, found: StreamEvent) -> Event:
        """A published event as an instance of its class."""
        ...

    def broke_off(self, position: int) -> None:
        """A reader stopped after the event with this number."""
        ...

    def stream_events(self, expose_internal: bool = False) -> AsyncIterator[Event]:
        """A reader of one run."""
        ...

    def relative(self, run_id: str) -> Self:
        """The handler of another run, of any workflow."""
        ...


def gap_before(found: StreamEvent, stream: StreamReader) -> UnreadableEvent | None:
    """The event that reports a gap, if `found` is the first event after events that left the log before being read."""
    missing = stream.first_missing
    if missing is None or missing >= found.seq:
        return None
    return UnreadableEvent(
        reason=f"Events between the numbers {missing} and {found.seq - 1} of run {stream.run_id!r} left the log before "
        "they were read. Read sooner, or raise UMBEL_STREAM_MAX_EVENTS."
    )


class Reading(AsyncIterator[Event]):
    """A reader of a run's stream. Not a generator, because that is finalized only some time after iteration stops."""

    def __init__(self, handler: Readable, stream: StreamReader, *, tells_gaps: bool) -> None:
        """Args:
        handler: The handler of the run.
        stream: The run's events as data.
        tells_gaps: Whether an `UnreadableEvent` reports events that left the log before they were read.
        """
        self._handler, self._stream, self._tells_gaps = handler, stream, tells_gaps
        self._found = stream.aevents()
        self._behind_gap: StreamEvent | None = None
        self._position: int | None = None
        self._reader: ReferenceType[asyncio.Task[object]] | None = None

    async def __anext__(self) -> Event:
        if self._reader is None and (task := asyncio.current_task()) is not None:
            self._reader = ref(task)
        found, self._behind_gap = self._behind_gap, None
        if found is None:
            try:
                found = await anext(self._found)
            except StopAsyncIteration:
                self._position = None
                raise
            if self._tells_gaps and (gap := gap_before(found, self._stream)) is not None:
                self._tells_gaps, self._behind_gap = False, found
                return gap
        self._position = found.seq
        return self._handler.decoded(found)

    @property
    def is_abandoned(self) -> bool:
        """Whether the reading task has ended. If it was cancelled, its traceback may still keep this object alive."""
        task = None if self._reader is None else self._reader()
        return task is not None and task.done()

    def break_off(self) -> None:
        """Report to the handler where reading stopped."""
        position, self._position = self._position, None
        if position is not None:
            self._handler.broke_off(position)

    async def aclose(self) -> None:
        """Stop reading."""
        self.break_off()
        await self._found.aclose()

    def __del__(self) -> None:
        self.break_off()


class FamilyReading(AsyncIterator[Event]):
    """The events of a run and of all its descendants; the events of each run are in order.

    The last event is the one that ends the run. It comes after all events of children that do not outlive the run.

    Attributes:
        origin: The run that published the latest event.
    """

    def __init__(self, root: Readable, expose_internal: bool, types: Collection[type[Event]] | None) -> None:
        self.origin = root.run_id
        self._root, self._expose_internal, self._types = root, expose_internal, types
        self._events: asyncio.Queue[tuple[str, Event] | None] = asyncio.Queue(maxsize=64)
        self._reading: asyncio.Task[None] | None = None

    async def __anext__(self) -> Event:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        found = await self._events.get()
        if found is None:
            await self._reading  # it may have failed
            raise StopAsyncIteration
        self.origin, event = found
        return event

    async def aclose(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    def abandon(self) -> None:
        """Stop reading without waiting. May be called from any thread."""
        if self._reading is not None:
            with suppress(RuntimeError):  # its loop is closed already
                self._reading.get_loop().call_soon_threadsafe(self._reading.cancel)

    async def _read_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._read(self._root, group)
        finally:
            await self._events.put(None)

    async def _read(self, run: Readable, group: asyncio.TaskGroup) -> None:
        """Read one run to its end, and its children concurrently."""
        children: list[asyncio.Task[None]] = []
        left_alone: list[asyncio.Task[None]] = []
        last: Event | None = None
        async for event in run.stream_events(expose_internal=True):
            if isinstance(event, ChildRunStarted):
                child = group.create_task(self._read(run.relative(event.run_id), group))
                (left_alone if event.on_parent_end == "leave" else children).append(child)
            if last is not None:  # a StopEvent that did not end the run
                await self._hand_on(run, last)
            last = event if isinstance(event, StopEvent) else None
            if last is None:
                await self._hand_on(run, event)
        await asyncio.gather(*children)
        for child in left_alone:
            child.cancel()
        if last is not None:
            await self._hand_on(run, last)

    async def _hand_on(self, run: Readable, event: Event) -> None:
        is_wanted = self._types is None or type(event) in self._types
        if is_wanted and (self._expose_internal or not isinstance(event, InternalDispatchEvent)):
            await self._events.put((run.run_id, event))


class BlockingFamilyReading(Iterator[Event]):
    """A `FamilyReading` for code without an event loop; it stops when nothing refers to it any more."""

    def __init__(
        self, family: FamilyReading, call: Callable[[Coroutine[Any, Any, Event]], Event], timeout: float | None
    ) -> None:
        """Args:
        family: The reader to use.
        call: Runs a coroutine on the loop of the connections and blocks until it has ended.
        timeout: Longest wait for an event in seconds; None is no limit.
        """
        self._family, self._events = family, _blocking(family, call, timeout)

    @property
    def origin(self) -> str:
        """The run that published the latest event."""
        return self._family.origin

    def __next__(self) -> Event:
        return next(self._events)


def _blocking(
    family: FamilyReading, call: Callable[[Coroutine[Any, Any, Event]], Event], timeout: float | None
) -> Generator[Event, None, None]:
    async def following() -> Event:
        async with asyncio.timeout(timeout):
            return await anext(family)

    try:
        while True:
            try:
                event = call(following())
            except StopAsyncIteration:
                return
            yield event
    finally:
        family.abandon()
