"""What led to what in one run, from its journal: which work item's events became which other work items.

With `history = full` the journal keeps the applied commands, which say it exactly. With `summary`, and for the parts of
a large fan-out, it is found by computing ids: those of work items derive from what they come from. What was gathered
by joins or sent with `ctx.send_event` cannot be found that way.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..model import envelope as names
from ..model.envelope import Envelope
from ..model.plan import Plan
from ..model.work_item import derive_id
from ..store.blocking import BlockingStore as Store
from ..store.replies import RunRecord
from ..store.scripts import unpack
from .timeline import Execution, executions

#: Where events come from and go to that are no work items.
START, OUTSIDE, STOP = "start", "outside", "stop"

#: Journal entries are read in pages of this many.
PAGE = 200
#: A fan-out whose size is not known is over when so many of its places in a row became no known work item.
_MISSES = 100

Entry = tuple[int, str, Any, Any]


@dataclass(frozen=True, slots=True)
class Hop:
    """Events of one class that led from one work item to another."""

    source: str
    target: str
    event: str
    in_list: bool = False


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run so far.

    Attributes:
        record: The run.
        steps: Step of each work item, those that did not end included.
        executions: Of each work item that was executed, in the order of their starts.
        hops: How often each hop was made.
        is_complete: All hops are known.
    """

    record: RunRecord
    steps: dict[str, str]
    executions: dict[str, list[Execution]]
    hops: Counter[Hop]
    is_complete: bool


def past_run(store: Store, run_id: str) -> PastRun:
    """Read a run and its journal.

    *Promise:* changes nothing; blocks until Redis has answered.

    Raises:
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    record = store.run(run_id)
    plan = store.plan(run_id, record.plan_digest)
    return traced(record, plan, _entries(store, run_id))


def _entries(store: Store, run_id: str) -> Iterator[Entry]:
    key, after = store.locate(run_id)["journal"], "-"
    while page := store.read("read a journal", partial(store.client.xrange, key, min=after, count=PAGE)):
        for entry_id, fields in page:
            commands = unpack(fields[b"c"]) if b"c" in fields else None
            yield int(entry_id.split(b"-")[0]), fields[b"k"].decode(), unpack(fields[b"d"]), commands
        after = f"({page[-1][0].decode()}"


def traced(record: RunRecord, plan: Plan, entries: Iterable[Entry]) -> PastRun:
    """What the entries (Redis ms, kind, data, commands) of a journal tell, oldest first. Pure."""
    trace = _Trace(record.run_id, plan)
    told: list[tuple[int, str, Any]] = []
    for at, kind, data, commands in entries:
        told.append((at, kind, data))
        trace.follow(kind, data, commands)
    found: dict[str, list[Execution]] = {}
    for each in executions(told):
        found.setdefault(each.work_id, []).append(each)
        trace.steps[each.work_id] = each.step
    is_complete = trace.derive(found, {data["w"]: data for _, kind, data in told if kind == "commit"})
    return PastRun(record, trace.steps, found, trace.hops, is_complete)


@dataclass(slots=True)
class _Gathering:
    """A collect step that gathers one fan-out."""

    work_id: str
    opener: str
    take: int | None
    members: int = 0


@dataclass
class _Trace:
    run_id: str
    plan: Plan
    steps: dict[str, str] = field(default_factory=dict)
    hops: Counter[Hop] = field(default_factory=Counter)
    _events: dict[str, str] = field(default_factory=dict)
    _gatherings: dict[tuple[str, str], _Gathering] = field(default_factory=dict)
    _slots: dict[tuple[str, str], deque[tuple[str, str]]] = field(default_factory=dict)
    _sets: Counter[str] = field(default_factory=Counter)
    _inbox: dict[str, str] = field(default_factory=dict)
    _sent: set[tuple[str, str]] = field(default_factory=set)
    _spliced: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    _unexplained: set[str] = field(default_factory=set)

    # -- commands --------------------------------------------------------------------------------------------------

    def follow(self, kind: str, data: Any, commands: Any) -> None:
        """One journal entry."""
        if kind == "commit" and commands is None:
            self._unexplained.add(data["w"])
        if not isinstance(commands, list):
            return
        if kind == "flush":
            for send in commands:
                # What an earlier attempt had sent already was absorbed.
                if (data["w"], send["id"]) not in self._sent:
                    self._sent.add((data["w"], send["id"]))
                    self._apply(data["w"], send["commands"], in_list=False)
            return
        source = data["w"] if kind == "commit" else OUTSIDE if kind == "send" else START
        self._apply(source, commands, in_list=kind == "commit" and data.get("out") == "fannedout")

    def _apply(self, source: str, commands: list[dict[str, Any]], *, in_list: bool) -> None:
        for c in commands:
            match c["o"]:
                case "keep":
                    self._events[c["e"]] = _envelope(c["d"]).type
                case "deliver":
                    self._lead(source, c["w"], c["s"], c["en"], in_list)
                case "open":
                    for join in c["j"]:
                        self._gatherings[c["id"], join["s"]] = _Gathering(join["w"], source, join.get("take"))
                case "absorb":
                    self._absorb(source, c, in_list)
                case "join":
                    self._fill_slot(source, c)
                case "splice":
                    total, steps = self._spliced.get(source, (0, []))
                    self._spliced[source] = (total + c["n"], [*steps, c["s"]])
                case "inbox":
                    self._inbox[c["e"]] = source
                case "resume" if c.get("e"):
                    origin = self._inbox.get(c["e"], source)
                    self.hops[Hop(origin, c["w"], self._events.get(c["e"], ""))] += 1
                case "publish" if (event := _envelope(c["d"])).is_a(names.INPUT_REQUIRED):
                    self.hops[Hop(source, OUTSIDE, event.type, in_list)] += 1
                case "finish":
                    self.hops[Hop(source, STOP, _envelope(c["d"]).type)] += 1

    def _lead(self, source: str, work_id: str, step: str, event: str, in_list: bool = False) -> None:
        self.steps.setdefault(work_id, step)
        self.hops[Hop(source, work_id, event, in_list)] += 1

    def _absorb(self, source: str, c: dict[str, Any], in_list: bool) -> None:
        gathering = self._gatherings.get((c["id"], c["s"]))
        if gathering is None or (gathering.take is not None and gathering.members >= gathering.take):
            return  # what comes after a join has fired is not gathered
        gathering.members += 1
        self._lead(source, gathering.work_id, c["s"], _envelope(c["d"]).type, in_list)

    def _fill_slot(self, source: str, c: dict[str, Any]) -> None:
        """As `joins.lua` does it: first in, first out for each event class."""
        stem = c["w"]
        self._slots.setdefault((stem, c["ty"]), deque()).append((source, c["en"]))
        needed = Counter(c["slots"])
        if any(len(self._slots.get((stem, slot), ())) < count for slot, count in needed.items()):
            return
        self._sets[stem] += 1
        for slot in c["slots"]:
            origin, event = self._slots[stem, slot].popleft()
            self._lead(origin, f"{stem}.{self._sets[stem]}", c["s"], event)

    # -- ids -------------------------------------------------------------------------------------------------------

    def derive(self, executed: Iterable[str], commits: dict[str, Any]) -> bool:
        """Find what the commands do not say; whether they have said everything."""
        orphans = set(executed) - {hop.target for hop in self.hops}
        for source, (total, steps) in self._spliced.items():
            # RunQuota of the list that were not staged lie between; there are no more than other work items came of it.
            places = total + sum(hop.source == source for hop in self.hops)
            for place in range(places):
                self._derive_child(source, derive_id(source, "returned", place), steps, orphans, in_list=True)
        for gathering, step in ((each, step) for (_, step), each in self._gatherings.items()):
            if not gathering.members and (gathering.work_id in orphans or gathering.work_id in self.steps):
                self._lead(gathering.opener, gathering.work_id, step, "", in_list=True)
        if self._unexplained:
            self._derive_all(orphans, commits)
        return not self._unexplained

    def _derive_all(self, orphans: set[str], commits: dict[str, Any]) -> None:
        steps = [step.name for step in self.plan.steps]
        self._derive_child(START, derive_id(self.run_id, "start"), steps, orphans, event=self.plan.start_event)
        for work_id in self._unexplained:
            data = commits[work_id]
            event = data.get("event", "")
            if event in self.plan.stop_events:
                self.hops[Hop(work_id, STOP, event)] += 1
            elif data["out"] == "failed":
                emitted = derive_id(work_id, "failed")
                self._derive_child(work_id, emitted, steps, orphans, event=names.STEP_FAILED)
            elif data["out"] == "returned":
                self._derive_child(work_id, derive_id(work_id, "returned", 0), steps, orphans, event=event)
            elif data["out"] == "fannedout":
                self._derive_fan_out(work_id, steps, orphans)

    def _derive_fan_out(self, source: str, steps: list[str], orphans: set[str]) -> None:
        place = misses = 0
        while misses < _MISSES and orphans:
            found = self._derive_child(source, derive_id(source, "returned", place), steps, orphans, in_list=True)
            place, misses = place + 1, 0 if found else misses + 1
        scope_id = derive_id(self.run_id, source, "scope")
        for step in steps:
            if (gathering := derive_id(self.run_id, scope_id, step)) in orphans:
                self._lead(source, gathering, step, "", in_list=True)

    def _derive_child(
        self, source: str, emitted: str, steps: list[str], orphans: set[str], *, event: str = "", in_list: bool = False
    ) -> bool:
        found = False
        for step in steps:
            if (child := derive_id(self.run_id, source, emitted, step)) in orphans:
                orphans.discard(child)
                self._lead(source, child, step, event or self._between(source, step), in_list)
                found = True
        return found

    def _between(self, source: str, step: str) -> str:
        """The event that a step fans out to another; empty when it may be one of several."""
        opener = self.plan.by_name.get(self.steps.get(source, ""))
        shared = set(opener.fans_out if opener else ()) & set(self.plan.by_name[step].accepts)
        return shared.pop() if len(shared) == 1 else ""


def _envelope(data: str) -> Envelope:
    return Envelope.from_bytes(data.encode("utf-8", "surrogateescape"))
