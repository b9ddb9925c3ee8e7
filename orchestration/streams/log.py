"""A run's events as its log stores them: decoding entries, and reading consistent pages of them.

Not here: the live channel (`pubsub.py`) and readers (`reader.py`). No function here retries: the caller decides how
long to wait during an outage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

import msgpack

from ..connection.keys import RunKeys
from ..model.durations import LARGEST_COUNT
from ..model.envelope import IDLE, STEP_STATE_CHANGED, UNHANDLED, UNREADABLE, Envelope, internal
from ..model.errors import RunNotFound
from ..store.replies import not_found
from ..store.verbs import Store

#: One entry as Redis returns it: its id, and its fields as a flat list.
RawEntry = tuple[bytes, list[bytes]]

#: Entries read at once per log: long replays take few round trips, and a page of large events still fits into memory.
PAGE = 200
#: Runs looked at in one round trip.
CHUNK = 500

#: A larger entry is decoded again for each reader, so that nothing large is cached.
LARGE_BYTES = 1 << 16

#: How many bytes of a damaged entry are shown.
_SHOWN_BYTES = 200

#: Kinds of entries, as the live channel spells them.
EVENT = b"e"
TRACE = b"t"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One published event.

    Attributes:
        seq: Its number within the run, from 0. Internal events are numbered in the same sequence, so a reader that
            does not ask for them sees gaps.
        envelope: The event.
        step: The step it comes from; empty if routing or the end of the run published it.
        attempt: The attempt that wrote it; 0 if no step's code did.
        at: When it was published, in Redis ms; 0 if that is not recorded, as for changes of a step's state and for
            events of older releases.
    """

    seq: int
    envelope: Envelope
    step: str
    attempt: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a run's logs, not yet decoded: an event (`e`) or a step's change of state (`t`)."""

    seq: int
    kind: bytes
    data: bytes

    # All readers of a run receive a message one after the other: it is unpacked once, and they share its entries.
    @staticmethod
    @lru_cache(1)
    def all_of(message: bytes) -> tuple[Entry, ...]:
        """The entries in a message of the live channel: what one script has published, in order."""
        return tuple(Entry(*entry) for entry in msgpack.unpackb(message, raw=True))

    def decoded(self) -> StreamEvent:
        """The entry's event; if it is damaged, an `UnreadableEvent`."""
        return self._decode() if len(self.data) > LARGE_BYTES else _decoded(self)

    def _decode(self) -> StreamEvent:
        try:
            return self._read()
        except Exception as error:  # whatever the bytes are: readers continue after it
            reason = f"Entry {self.seq} of the log is damaged: {error!r}."
            payload = json.dumps({"reason": reason, "payload": repr(self.data[:_SHOWN_BYTES])})
            return StreamEvent(self.seq, Envelope(UNREADABLE, (), payload.encode()), "", 0)

    def _read(self) -> StreamEvent:
        fields = msgpack.unpackb(self.data, raw=True)
        if self.kind == EVENT:
            payload, step, attempt, *at = fields
            return StreamEvent(self.seq, Envelope.from_bytes(payload), step.decode(), attempt, *at[:1])
        step, state, worker, taken, given = (field.decode() for field in fields)
        return StreamEvent(self.seq, _trace_event(step, state, worker, taken, given), step, 0)


def _trace_event(step: str, state: str, worker: str, taken: str, given: str) -> Envelope:
    if state == "idle":
        return internal(IDLE)
    if state == "unhandled":
        name = taken.rpartition(".")[2]
        idle = worker == "idle"
        return internal(UNHANDLED, event_type=name, qualified_name=taken, step_name=step or None, idle=idle)
    # LlamaIndex Workflows uses a class's bare name until the step has ended, and then what `str()` returns.
    ended = state == "not_running"
    return internal(
        STEP_STATE_CHANGED,
        name=step,
        step_state="preparing" if state == "parked" else state,
        worker_id=worker,
        input_event_name=_as_shown(taken) if ended else taken.rpartition(".")[2],
        output_event_name=_as_shown(given) if given else None,
    )


def _as_shown(name: str) -> str:
    """What `str(cls)` returns for a class of this wire name; built-in classes are shown as in `umbel.events`."""
    root, _, last = name.partition(".")
    return f"<class 'umbel.events.{last}'>" if root == "umbel" and "." not in last else f"<class '{name}'>"


# Shared by readers as in `Entry.all_of`; recent, small entries only, which cost little to keep.
@lru_cache(64)
def _decoded(entry: Entry) -> StreamEvent:
    return entry._decode()


@dataclass(frozen=True, slots=True)
class Page:
    """What the log holds after some number, read atomically.

    Attributes:
        entries: In order.
        settled: Up to this number nothing else is in the log.
        head: The last number that was assigned; -1 if nothing was published yet.
        running: Whether the run is running.
        first_missing: The first requested number that the log has already dropped.
    """

    entries: Sequence[Entry]
    settled: int
    head: int
    running: bool
    first_missing: int | None

    @property
    def is_last(self) -> bool:
        """Whether nothing was published after this page."""
        return self.settled >= self.head


async def read_page(store: Store, run_id: str, after: int, *, with_traces: bool, most: int = PAGE) -> Page:
    """The next entries after number `after`, with the run's state read atomically. May be awaited on any loop.

    *Promise:* one transaction, so an entry published before this call is in the page or after its end.

    Raises:
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer; there is no retry.
    """
    after = min(max(after, -1), LARGEST_COUNT)  # no event has a number outside
    keys = store.locate(run_id)
    logs = [(EVENT, keys["stream"])] + ([(TRACE, keys["trace"])] if with_traces else [])
    (status, seq), kept, *found = await store.connection.transaction(
        f"read the events of run {run_id!r}",
        ("HMGET", keys["run"], "status", "seq"),
        ("XLEN", keys["stream"]),
        *(("XRANGE", log, f"{after + 1}-0", "+", "COUNT", most) for _, log in logs),
        patience_seconds=0.0,
    )
    if status is None:
        raise RunNotFound(not_found(run_id))
    head = int(seq or 0) - 1
    read = [[_entry(kind, raw) for raw in log] for (kind, _), log in zip(logs, found, strict=True)]
    settled = min((log[-1].seq for log in read if len(log) == most), default=head)
    entries = sorted((entry for log in read for entry in log if entry.seq <= settled), key=attrgetter("seq"))
    missing = None
    if with_traces:
        missing = _first_hole((entry.seq for entry in entries), after + 1, settled)
    elif entries and entries[0].seq > after + 1 and kept >= store.settings.stream_max_events:
        missing = await _trimmed(store, keys, after, entries[0].seq)
    return Page(entries, settled, head, status == b"running", missing)


def _entry(kind: bytes, raw: RawEntry) -> Entry:
    return Entry(_seq(raw), kind, raw[1][1])  # its only field is `d`


def _seq(raw: RawEntry) -> int:
    return int(raw[0].partition(b"-")[0])


def _first_hole(numbers: Iterator[int], start: int, end: int) -> int | None:
    """The first number of start … end that is not among `numbers`, which ascend from `start`."""
    expected = start
    for number in numbers:
        if number != expected:
            return expected
        expected += 1
    return expected if expected <= end else None


async def _trimmed(store: Store, keys: RunKeys, after: int, first: int) -> int | None:
    """The first number between `after` and `first` (the next event in the log) that may have been an event.

    The log is long enough to have been trimmed. A number in between was a step's change of state if the trace still has
    it. If the trace was trimmed too, that is unknown, and the number is reported rather than a possible gap hidden.
    """
    what = "look for trimmed events"
    newest = ("XREVRANGE", keys["stream"], f"{after}-1", "-", "COUNT", 1)
    if after >= 0 and await store.connection.command(what, *newest, patience_seconds=0.0):
        return None  # trimming takes the oldest first
    expected = after + 1
    while expected < first:
        traces = ("XRANGE", keys["trace"], f"{expected}-0", f"{first - 1}-1", "COUNT", PAGE)
        page = await store.connection.command(what, *traces, patience_seconds=0.0)
        hole = _first_hole(map(_seq, page), expected, expected + len(page) - 1)
        if hole is not None or not page:
            return expected if hole is None else hole
        expected += len(page)
    return None


async def read_heads(store: Store, run_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Per run the last number assigned and whether it is running; an unknown run is reported as ended.

    Raises:
        StoreUnavailable: Redis did not answer; there is no retry.
    """
    heads: dict[str, tuple[int, bool]] = {}
    for start in range(0, len(run_ids), CHUNK):
        chunk = run_ids[start : start + CHUNK]
        asks = [("HMGET", store.locate(run_id)["run"], "status", "seq") for run_id in chunk]
        replies = await store.connection.batch("look at runs", asks, patience_seconds=0.0)
        for run_id, (status, seq) in zip(chunk, replies, strict=True):
            heads[run_id] = (int(seq or 0) - 1, status == b"running")
    return heads
