"""Reading a run's events, live and replayed, and waiting for its end.

A reader reads the log first and then follows the live channel. It detects gaps by the events' numbers: the channel
carries everything that gets a number, so a skipped number is a lost message, and the log is read again from there. The
same happens after every (re)subscription, when a buffer overflows, and when the check every few seconds shows that the
run is further than the messages received. So each event that the log still holds is seen once, in order, whatever
happens to connections.

Not here: what the log holds (`log.py`), the one connection all readers share (`pubsub.py`), the way from there to the
event loops of readers (`relay.py`), and how they wait (`follower.py`).
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Coroutine, Generator, Hashable, Mapping
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from ..model.envelope import INTERNAL, STOP, UNREADABLE
from ..model.errors import WorkflowRuntimeError
from ..store.replies import RunEnd
from ..store.verbs import Store
from .ends import Mailboxes, StartedRun
from .follower import Follower, UntilEnded
from .log import PAGE, TRACE, Entry, Page, StreamEvent, read_page
from .pubsub import CLOSED, LiveChannels
from .relay import Relay

__all__ = ["StreamEvent", "StreamHub", "StreamReader"]

T = TypeVar("T")

logger = logging.getLogger("umbel.streams")

#: Bytes of live events that are buffered for one slow reader; beyond this it goes back to the log.
BUFFER_BYTES = 8 << 20
#: Events, and bytes of them, that are decoded ahead for a reader, so that a blocking one is woken for many at once.
AHEAD_EVENTS, AHEAD_BYTES = 64, 1 << 18


class StreamHub:
    """All reading of events in one process: one live connection, however many runs, readers and event loops.

    Nothing is connected before the first reader. A forked child does not use its parent's connection: the hub makes its
    own there.
    """

    def __init__(
        self,
        store: Store,
        *,
        poll_seconds: float = 2.0,
        buffer_events: int = 1_000,
        buffer_bytes: int = BUFFER_BYTES,
        page_events: int = PAGE,
    ) -> None:
        """Args:
        store: The runs; the live connection runs on the loop of its portal.
        poll_seconds: How often the followed runs are checked, in case messages were lost.
        buffer_events: Live events kept for a reader that is slower than its run, before it goes back to the log.
        buffer_bytes: The same in bytes; one event is kept whatever its size.
        page_events: How many entries of the log a reader holds at once.
        """
        self.store = store
        self.poll_seconds = poll_seconds
        self.buffer_events = buffer_events
        self.buffer_bytes = buffer_bytes
        self.page_events = page_events
        self._live: dict[int, tuple[LiveChannels, Mailboxes]] = {}
        self._is_closed = False

    def reader(
        self, run_id: str, after: int = -1, internal: bool = False, types: Collection[str] | None = None
    ) -> StreamReader:
        """A reader of one run. Sends no request to Redis yet, so it may be made on an event loop.

        Args:
            run_id: The run; whether it exists is checked when reading begins.
            after: Begin after this number; -1 is the beginning.
            internal: Also step state changes, idleness and unhandled events.
            types: Only events of exactly these wire names. The end of the run is noticed all the same.
        """
        return StreamReader(self, run_id, after, internal, types)

    def expect(self, run_id: str) -> StartedRun | None:
        """Call this before a run is started here: with the returned value, waiting for its end costs little.

        None while this process does not receive ends, because no caller has waited for one yet or recently.
        """
        if self._is_closed or not self.store.settings.expected_ends:
            return None
        return self._here()[1].of(run_id).expect(run_id)

    def rewinding(self, run_id: str) -> AbstractContextManager[None]:
        """Rewind a run in this context: afterwards, nothing in this process returns its former end."""
        return self._here()[1].of(run_id).rewinding(run_id)

    def wait_ended(self, run_id: str, timeout: float | None = None, started: StartedRun | None = None) -> RunEnd:
        """Block until the run is no longer running.

        A message from Redis ends the wait; a check every few seconds compensates for a lost message. The wait continues
        through an outage.

        Args:
            run_id: The run.
            timeout: Seconds to wait; None waits as long as it takes.
            started: What `expect` returned, if the run was started here.

        Raises:
            TimeoutError: It is still running.
            RunNotFound: No such run, or its retention is over.
            StoreUnavailable: Redis did not answer from the beginning on.
        """
        if started is not None:
            begun = time.monotonic()
            end = started.mailbox.blocking_arrival(started, timeout)
            if end is not None:
                return end
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - begun))
        return self.call(self.await_ended(run_id, timeout))

    async def await_ended(self, run_id: str, timeout: float | None = None, started: StartedRun | None = None) -> RunEnd:
        """`wait_ended` on an event loop, which is not blocked."""
        if started is not None and timeout is None:
            arrived = await started.mailbox.arrival(started)
            if arrived is not None:
                return arrived
        live, mailboxes = self._here()
        follower = UntilEnded(live, mailboxes.of(run_id), run_id, timeout)
        try:
            end = await follower.next()
        finally:
            follower.leave()
        assert end is not None  # None only if the follower is over, which this one never is
        return end

    def close(self) -> None:
        """End the connection. Readers and waiters in progress get a `WorkflowRuntimeError`."""
        self._is_closed = True
        here = self._live.pop(os.getpid(), None)
        if here is not None:
            here[0].close()

    def live(self) -> LiveChannels:
        """The live connection that all readers of this process share.

        Raises:
            WorkflowRuntimeError: The hub is closed.
        """
        return self._here()[0]

    def _here(self) -> tuple[LiveChannels, Mailboxes]:
        if self._is_closed:
            raise WorkflowRuntimeError(CLOSED)
        pid = os.getpid()
        known = self._live.get(pid)
        if known is None:
            live = LiveChannels(self.store, self.poll_seconds)
            # No lock: another thread of the parent may have held it at the fork. setdefault picks one winner as well.
            known = self._live.setdefault(pid, (live, Mailboxes(live)))
        return known

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a reader's coroutine on the portal's loop and block until it has ended.

        Raises:
            WorkflowRuntimeError: The portal was closed meanwhile.
        """
        try:
            return self.store.connection.portal.call(coroutine)
        except CancelledError:
            raise WorkflowRuntimeError(CLOSED) from None


class StreamReader:
    """One reader of one run. Iterating again after a break resumes where it stopped; one iteration at a time.

    Attributes:
        run_id: The run.
        position: Everything up to this number was returned, or was not asked for.
        internal: Whether internal events are read.
        types: The wire names that are read; None reads all.
        first_missing: The first number that was asked for but had already left the log, if any.
    """

    def __init__(self, hub: StreamHub, run_id: str, after: int, internal: bool, types: Collection[str] | None) -> None:
        """Made by `StreamHub.reader`."""
        self._hub = hub
        self.run_id = run_id
        self.position = after
        self.internal = internal
        self.types = None if types is None else frozenset(types)
        self.first_missing: int | None = None

    @property
    def fell_behind(self) -> bool:
        """Whether events are missing because the log no longer had them when they were asked for."""
        return self.first_missing is not None

    def events(self, timeout: float | None = None) -> Generator[StreamEvent, None, None]:
        """The events in order, each once, blocking for the next; ends when the run has ended.

        *Promise:* nothing that the log still holds is left out, even across lost connections and a restart of Redis,
        during which the reader waits. If Redis is set back to an earlier state (`appendfsync everysec`), that is
        logged, and reading continues from there. A `StopEvent` that a step wrote to the stream is an event like any
        other.

        Args:
            timeout: Longest wait for an event in seconds; None waits as long as the run lives.

        Raises:
            TimeoutError: No event in time; a further call continues from here.
            RunNotFound: No such run, or its retention is over.
            StoreUnavailable: Redis did not answer from the beginning on.
        """
        return self._blocking(self._following(timeout))

    def aevents(self, timeout: float | None = None) -> AsyncGenerator[StreamEvent, None]:
        """`events` on the running event loop, which is not blocked."""
        return self._awaiting(self._following(timeout))

    def _following(self, timeout: float | None) -> _Following:
        return _Following(self._hub, self, timeout)

    def _blocking(self, following: _Following) -> Generator[StreamEvent, None, None]:
        try:
            following.refuse_fork()
            while (found := self._hub.call(following.next())) is not None:
                for self.position, event in found:
                    yield event
                    following.refuse_fork()
        finally:
            following.leave()

    async def _awaiting(self, following: _Following) -> AsyncGenerator[StreamEvent, None]:
        try:
            following.refuse_fork()
            while (found := await following.next()) is not None:
                for self.position, event in found:
                    yield event
                    following.refuse_fork()
        finally:
            following.leave()


class _Following(Follower[list[tuple[int, StreamEvent]]]):
    """One iteration of a `StreamReader`: a page of the log that is being returned, and live entries after it.

    It finds events, each with the reader's position once that event is returned. Its own place may be ahead of that.
    """

    def __init__(self, hub: StreamHub, reader: StreamReader, timeout: float | None) -> None:
        super().__init__(hub.live(), reader.run_id, timeout)
        store = hub.store
        self._channel = store.keys.channel(store.locate(reader.run_id)["stream"]).encode()
        self._hub = hub
        self._reader = reader
        self._place = reader.position
        self._page: deque[Entry] = deque()
        self._page_end = -1
        self._buffer: deque[Entry] = deque()
        self._buffer_bytes = 0
        self._received = -1

    def listen(self, relay: Relay) -> None:
        self.live.join(relay, self._channel, self)

    def unlisten(self, relay: Relay) -> None:
        self.live.leave(relay, self._channel, self)

    def heard(self, message: bytes) -> None:
        shows = False
        for entry in Entry.all_of(message):
            self._received = entry.seq
            is_shown = self._reader.internal or entry.kind != TRACE
            if not self.is_stale:  # otherwise the log is read soon, and this entry is in it
                self._keep(entry if is_shown else Entry(entry.seq, TRACE, b""))
            shows = shows or is_shown
        if shows:
            self.wake()

    def _keep(self, entry: Entry) -> None:
        size = len(entry.data)
        too_large = bool(self._buffer) and self._buffer_bytes + size > self._hub.buffer_bytes
        if too_large or len(self._buffer) >= self._hub.buffer_events:
            self.mark_stale()
        else:
            self._buffer_bytes += size
            self._buffer.append(entry)

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        if self.run_id not in heads:
            return
        head, running = heads[self.run_id]
        if not running or head != max(self._received, self._place):
            self.mark_stale()

    def before_look(self) -> None:
        self._buffer.clear()
        self._buffer_bytes = 0

    def look_key(self) -> Hashable:
        return self.run_id, self._place, self._reader.internal, self._hub.page_events

    async def look(self) -> Page:
        with_traces, most = self._reader.internal, self._hub.page_events
        return await read_page(self.live.store, self.run_id, self._place, with_traces=with_traces, most=most)

    def learn(self, seen: Page) -> None:
        reader = self._reader
        if seen.head < self._place:
            logger.warning(
                "Redis was set back: run %s had reached event number %d and is now at %d; reading continues from there",
                self.run_id,
                self._place,
                seen.head,
                extra={"action": "set_back", "run_id": self.run_id},
            )
            self._place = self._received = seen.head
        if seen.first_missing is not None:
            if reader.first_missing is None:
                reader.first_missing = seen.first_missing
            logger.warning(
                "a reader of run %s fell behind the log: events from number %d on were trimmed before it "
                "read them. Read sooner, or raise UMBEL_STREAM_MAX_EVENTS.",
                self.run_id,
                seen.first_missing,
                extra={"action": "fell_behind", "run_id": self.run_id, "seq": seen.first_missing},
            )
        self._page.extend(seen.entries)
        self._page_end = seen.settled
        if not self._page:
            self._place = max(self._place, seen.settled)
        self.is_over = seen.is_last and not seen.running
        if not seen.is_last:
            self.is_stale = True

    def found(self) -> list[tuple[int, StreamEvent]] | None:
        events: list[tuple[int, StreamEvent]] = []
        size = 0
        while len(events) < AHEAD_EVENTS and size < AHEAD_BYTES and (entry := self._next_entry()) is not None:
            event = self._shown(entry)
            if event is not None:
                events.append((self._place, event))
                size += len(entry.data)
        if not events:
            self._reader.position = self._place
        return events or None

    def _next_entry(self) -> Entry | None:
        if self._page:
            entry = self._page.popleft()
            self._place = entry.seq if self._page else self._page_end
            return entry
        while self._buffer and not self.is_stale:
            entry = self._buffer.popleft()
            self._buffer_bytes -= len(entry.data)
            if entry.seq == self._place + 1:
                self._place = entry.seq
                return entry
            if entry.seq > self._place:
                self.is_stale = True
        return None

    def _shown(self, entry: Entry) -> StreamEvent | None:
        if entry.kind == TRACE and not self._reader.internal:
            return None
        event = entry.decoded()
        if event.envelope.is_a(STOP) and not self.is_over:
            self.is_stale = True  # perhaps the run's end: the log shows that
        if event.envelope.is_a(INTERNAL) and not self._reader.internal:
            return None
        types = self._reader.types
        return event if types is None or event.envelope.type in types or event.envelope.type == UNREADABLE else None

    def late(self) -> str:
        return (
            f"Run {self.run_id!r} published nothing for {self.timeout:g} s after number {self._place}. "
            "It may be at work all the same: read on, or wait longer."
        )
