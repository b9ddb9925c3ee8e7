"""Cause and effect in one run, from its journal: which work item's events became which other work items.

Each entry names the work items that it led to. Only the work items of a large fan-out, which is staged in chunks, are
found by computing their ids. Entries of older releases name none; there, the deliveries among their commands are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from ..model.plan import Plan, StepPlan
from ..model.work_item import derive_id
from ..store.journal import entries
from ..store.replies import RunRecord
from ..store.verbs import Store
from .timeline import Execution, executions

#: Where events come from and go to, other than work items.
START, OUTSIDE, STOP = "start", "outside", "stop"

#: Kinds of entries that route events, and where these events come from; empty for the entry's work item.
_SOURCES = {"start": START, "send": OUTSIDE, "commit": "", "flush": "", "wake": "", "begin": ""}


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
        steps: Step of each work item, including unfinished ones.
        executions: Executions of each work item that was executed, in the order of their starts.
        hops: How often each hop occurred.
        is_complete: All hops are known: no entry was written by an older release.
    """

    record: RunRecord
    steps: dict[str, str]
    executions: dict[str, list[Execution]]
    hops: Counter[Hop]
    is_complete: bool


async def past_run(store: Store, run_id: str) -> PastRun:
    """Read a run and its journal.

    *Promise:* changes nothing.

    Raises:
        RunNotFound: No such run, or its retention is over.
        StoreUnavailable: Redis did not answer.
    """
    record = await store.run(run_id)
    trace = _Trace(record, await store.plan(run_id, record.plan_digest))
    async for entry in entries(store, run_id):
        trace.take(entry.at, entry.kind, entry.about, entry.commands)
    return trace.past_run()


@dataclass
class _Trace:
    record: RunRecord
    plan: Plan
    steps: dict[str, str] = field(default_factory=dict)
    hops: Counter[Hop] = field(default_factory=Counter)
    is_complete: bool = True
    _read: list[tuple[int, str, Any]] = field(default_factory=list)
    _staged: dict[str, dict[str, int]] = field(default_factory=dict)

    def take(self, at: int, kind: str, data: Any, commands: Any) -> None:
        """Process the next journal entry: Redis ms, kind, data, and the commands if the journal keeps them."""
        self._read.append((at, kind, data))
        if kind in _SOURCES:
            self._follow(kind, data, commands)

    def past_run(self) -> PastRun:
        """What the entries so far result in."""
        found: dict[str, list[Execution]] = {}
        for each in executions(self._read):
            found.setdefault(each.work_id, []).append(each)
            self.steps[each.work_id] = each.step
        self._find_staged(found)
        return PastRun(self.record, self.steps, found, self.hops, self.is_complete)

    def _follow(self, kind: str, data: Any, commands: Any) -> None:
        source = _SOURCES[kind] or data.get("w", "")
        in_list = data.get("out") == "fannedout"
        if data.get("staged"):
            self._staged[source] = data["staged"]
        if "led_to" in data:
            for group in data["led_to"]:
                for target in group["w"]:
                    self._lead(group.get("by", source), target, group["s"], group["e"], in_list and "by" not in group)
        elif kind in ("start", "send", "commit", "flush"):
            self.is_complete = False
            for command in commands if kind != "flush" and commands else ():
                if command["o"] == "deliver":
                    self._lead(source, command["w"], command["s"], command["en"], in_list)

    def _lead(self, source: str, target: str, step: str, event: str, in_list: bool) -> None:
        if step:
            self.steps.setdefault(target, step)
        self.hops[Hop(source, target, event, in_list)] += 1

    def _find_staged(self, executed: Container[str]) -> None:
        """Find the work items of large fan-outs: the journal contains only how many there are."""
        ids_of = self.record.options.get("fork", {}).get("ids", self.record.run_id)
        for source, sizes in self._staged.items():
            opener = self.plan.by_name[self.steps[source]]
            # Events of the list that were not staged are at places between the staged ones.
            places = sum(sizes.values()) + sum(n for hop, n in self.hops.items() if hop.source == source)
            for step, size in sizes.items():
                event = self._between(opener, step)
                if step in opener.collected_by:
                    scope_id = derive_id(ids_of, source, "scope")
                    self.steps.setdefault(fan_in := derive_id(ids_of, scope_id, step), step)
                    self.hops[Hop(source, fan_in, event, True)] += size
                    continue
                for place in range(places):
                    target = derive_id(ids_of, source, derive_id(source, "returned", place), step)
                    if target in executed:
                        self._lead(source, target, step, event, True)

    def _between(self, opener: StepPlan, step: str) -> str:
        """The event type that a step fans out to another step; empty if it may be one of several."""
        shared = set(opener.fans_out) & set(self.plan.by_name[step].accepts)
        return shared.pop() if len(shared) == 1 else ""
