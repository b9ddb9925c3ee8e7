"""One work item for display: what it received and from where, its attempts, what it led to, what it wrote.

All of this is in the run's journal. An entry without commands (`history="summary"`) names the steps it led to, but
lacks the events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..model.envelope import Envelope
from ..model.errors import RunNotFound
from ..store.journal import Entry, entries
from ..store.reads import StoreReads
from ..store.replies import not_found
from .run_detail import JournalEntry, read_entry
from .timeline import Execution, executions

#: Maximum journal entries that are read, and their bytes; anything beyond is not found.
ENTRIES, BYTES = 50_000, 64 << 20
#: Maximum events of each kind that are returned.
EVENTS = 100


@dataclass(frozen=True, slots=True)
class Link:
    """Another work item: where an event comes from or goes to.

    Attributes:
        work_id: Its id; `start` or `outside` for an event that no step emitted, `stop` for the end of the run.
        step: Its step; empty if it is not a work item.
    """

    work_id: str
    step: str


@dataclass(frozen=True, slots=True)
class Passed:
    """An event that the work item received or emitted.

    Attributes:
        name: Wire name of its class.
        event: The event; None if the journal does not have it.
        links: Where it comes from, or goes to.
        is_published: It was written to the run's stream.
    """

    name: str
    event: Envelope | None
    links: tuple[Link, ...]
    is_published: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """One write to `ctx.store`.

    Attributes:
        at: Redis ms.
        version: The state version after the write.
        values: Top-level key -> stored JSON; empty if the journal lacks them.
        deleted: Keys that were deleted.
    """

    at: int
    version: int
    values: dict[str, str]
    deleted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """What one attempt read from `ctx.store`.

    Attributes:
        attempt: Its number.
        keys: Top-level keys; None for all of them.
        before: Number of the run's last change before the attempt began.
    """

    attempt: int
    keys: tuple[str, ...] | None
    before: int


@dataclass(frozen=True, slots=True)
class WorkDetail:
    """One work item.

    Attributes:
        work_id: Its id.
        ready_at: When its events were complete, in Redis ms; None if the journal does not say.
        executions: Executions that have ended, in order.
        given: The events it received.
        emitted: Events it returned, sent or wrote to the stream.
        writes: Its writes to `ctx.store`.
        read: What the last attempt with an outcome read from it; None if there is none, or an older release executed
            it.
        left_out: Number of events and writes beyond `EVENTS`.
        dispatches: Attempt -> number of the dispatch it was claimed with, where the journal says so.
    """

    work_id: str
    ready_at: int | None
    executions: tuple[Execution, ...]
    given: tuple[Passed, ...]
    emitted: tuple[Passed, ...]
    writes: tuple[Write, ...]
    read: Read | None
    left_out: int
    dispatches: dict[int, int]


async def read_work(store: StoreReads, run_id: str, work_id: str) -> WorkDetail:
    """Read one work item of a run.

    *Promise:* changes nothing, and reads no more than `ENTRIES` and `BYTES` of the journal.

    Raises:
        RunNotFound: No such run, its retention is over, or its journal does not name the work item.
        StoreUnavailable: Redis did not answer.
    """
    reading = _Reading(work_id)
    async for entry in _entries(store, run_id):
        reading.take(read_entry(entry))
        reading.note_read(entry)
        if entry.kind == "claim" and entry.work_id == work_id:
            reading.dispatches[entry.about["a"]] = int(entry.arguments[b"d"])
    if reading.is_empty:
        raise RunNotFound(f"No work item {work_id[:100]!r} in the journal of run {run_id!r}. {not_found(run_id)}")
    return reading.detail()


async def _entries(store: StoreReads, run_id: str) -> AsyncIterator[Entry]:
    left, size = ENTRIES, BYTES
    async for entry in entries(store, run_id):
        yield entry
        left, size = left - 1, size - entry.size
        if left <= 0 or size <= 0:
            return


@dataclass
class _Reading:
    work_id: str
    ready_at: int | None = None
    given: list[Passed] = field(default_factory=list)
    emitted: list[Passed] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    dispatches: dict[int, int] = field(default_factory=dict)
    read: Read | None = None
    #: Number of the last change before the current attempt.
    _before: int = 0
    _own: list[tuple[int, str, Any]] = field(default_factory=list)
    _steps: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self._own or self.given)

    def take(self, entry: JournalEntry) -> None:
        data = entry.data
        mine = data.get("w") == self.work_id if isinstance(data, dict) else False
        if isinstance(data, dict):
            if "w" in data and "s" in data:
                self._steps.setdefault(data["w"], data["s"])
            source = {"start": "start", "send": "outside"}.get(entry.kind) or data.get("w", "")
            for group in data.get("led_to") or ():
                if self.work_id in group["w"]:
                    self._give(entry, group, group.get("by", source))
            if mine and entry.kind in ("commit", "flush"):
                self._emit(entry, data.get("led_to") or ())
            if mine and entry.kind == "state":
                self._write(entry)
        owned = [each for each in data if each.get("w") == self.work_id] if isinstance(data, list) else []
        if mine and entry.kind != "state":
            self._own.append((entry.at, entry.kind, data))
        elif owned:
            self._own.append((entry.at, entry.kind, owned))

    def note_read(self, entry: Entry) -> None:
        """Note where an attempt begins (at its claim, or at the commit that led to it) and what it read."""
        about = entry.about if isinstance(entry.about, dict) else {}
        if entry.work_id == self.work_id:
            if entry.kind == "claim":
                self._before = entry.seq - 1
            elif entry.kind == "commit":
                names = about.get("rd")
                keys = None if names == 1 else tuple(names or ())
                self.read = None if names is None else Read(about["a"], keys, self._before or entry.seq - 1)
        if any(self.work_id in group["w"] for group in about.get("led_to") or ()):
            self._before = entry.seq

    def _give(self, entry: JournalEntry, group: dict[str, Any], source: str) -> None:
        self.ready_at = entry.at
        link = Link(source, self._steps.get(source, ""))
        found: list[Envelope | None] = [*_events_for(self.work_id, group, entry.commands)] or [None]
        self.given += [Passed(group["e"], event, (link,)) for event in found]

    def _emit(self, entry: JournalEntry, led_to: Iterable[dict[str, Any]]) -> None:
        links: dict[str, list[Link]] = {}
        for group in led_to:
            links.setdefault(group["e"], []).extend(Link(each, group["s"]) for each in group["w"][:EVENTS])
        if not entry.commands:
            self.emitted += [Passed(name, None, tuple(to)) for name, to in links.items()]
        for event, targets, is_published in _emitted(entry.commands):
            to = [each for each in links.get(event.type, ()) if targets is None or each.work_id in targets]
            self.emitted.append(Passed(event.type, event, tuple(to), is_published))

    def _write(self, entry: JournalEntry) -> None:
        stored: Any = entry.commands or {}
        values = stored.get("set", {}) if isinstance(stored, dict) else {}
        deleted = tuple(entry.data.get("del") or ())
        self.writes.append(Write(entry.at, entry.data.get("v", 0), dict(values), deleted))

    def detail(self) -> WorkDetail:
        left_out = sum(max(0, len(each) - EVENTS) for each in (self.given, self.emitted, self.writes))
        return WorkDetail(
            self.work_id,
            self.ready_at,
            tuple(executions(self._own)),
            tuple(self.given[:EVENTS]),
            tuple(self.emitted[:EVENTS]),
            tuple(self.writes[:EVENTS]),
            self.read,
            left_out,
            self.dispatches,
        )


def _envelope(stored: str) -> Envelope:
    return Envelope.from_bytes(stored.encode("utf-8", "surrogateescape"))


def _events_for(work_id: str, group: dict[str, Any], commands: Iterable[dict[str, Any]]) -> Iterable[Envelope]:
    """The events of one entry that led to the work item."""
    kept: dict[str, str] = {}
    for command in commands:
        match command["o"]:
            case "keep":
                kept[command["e"]] = command["d"]
            case "deliver" if command["w"] == work_id and command["e"] in kept:
                yield _envelope(kept[command["e"]])
            case "join" | "resume" if command.get("en") == group["e"] and command.get("e") in kept:
                yield _envelope(kept[command["e"]])
            case "absorb" if command["s"] == group["s"] and command["en"] == group["e"]:
                yield _envelope(command["d"])


def _emitted(commands: Iterable[dict[str, Any]]) -> Iterable[tuple[Envelope, set[str] | None, bool]]:
    """Events of a commit; the work items that each was delivered to, None for all of its class; whether published."""
    delivered: dict[str, set[str]] = {}
    for command in commands:
        if command["o"] == "deliver":
            delivered.setdefault(command["e"], set()).add(command["w"])
    for command in commands:
        if command["o"] == "keep":
            yield _envelope(command["d"]), delivered.get(command["e"]), False
        elif command["o"] in ("absorb", "finish", "inbox"):
            yield _envelope(command["d"]), None, False
        elif command["o"] == "publish":
            yield _envelope(command["d"]), set(), True
