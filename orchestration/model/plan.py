"""The plan: a workflow as data. Names, accepted events, limits, joins; no user class, no code.

A run keeps the plan it started with, so a deploy never changes the routing of runs in flight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal
from urllib.parse import quote, unquote

from .envelope import EVENT, Envelope
from .work_item import derive_id

#: Prefix of what parked work lacks if the code routes an event that the run's plan does not.
NOT_ROUTING = "-"
#: Prefix of what parked work lacks if the code's step does not take the events of the work.
NOT_TAKING = "="

StepKind = Literal["each", "collect", "all_of"]

# Stored plans spell `all_of` as "join" and `collected_by` as "joins", as older versions do. Another spelling would
# change the digest of every plan, and runs in flight would no longer find theirs.
_STORED_KINDS: dict[str, str] = {"all_of": "join"}
#: Fields that plans of older versions lack. They are omitted when unset, so that digests stay the same.
_UNLESS_SET = ("cancel_rest", "join_by", "within_seconds")
_KINDS = {stored: kind for kind, stored in _STORED_KINDS.items()}


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One step's signature and limits.

    Attributes:
        name: The method's (or free function's) name.
        task: The Celery task's name, `Order.charge`.
        kind: `each` runs once per event; `collect` has one `list[E]` parameter and runs once per fan-out;
            `all_of` has several event parameters and runs once per full set.
        accepts: Wire names of accepted events. For `all_of` one per parameter, in order (names may repeat).
        take: For `collect`: run when this many have arrived; None runs when the fan-out has closed.
        cancel_rest: With `take`: cancel the remaining branches when the step runs.
        join_by: For `all_of`: the field that must be equal in the events of a set.
        within_seconds: For `all_of`: how long a set may take to become complete, from its first event.
        returns: Wire names the step may return as single events.
        fans_out: Wire names the step may return inside a list.
        collected_by: The `collect` steps that collect the results of this step's fan-out; each runs once per fan-out.
        num_workers: Concurrent executions within one run.
        timeout_seconds: Limit of one attempt; None is no limit.
        accepts_subclasses: Match by class hierarchy instead of exact class.
        recovers: For `@catch_error`: the steps covered, `("*",)` for a wildcard; empty for ordinary steps.
        max_recoveries: How often one lineage of events may be recovered by this handler.
    """

    name: str
    task: str
    kind: StepKind = "each"
    accepts: tuple[str, ...] = ()
    take: int | None = None
    cancel_rest: bool = False
    join_by: str | None = None
    within_seconds: float | None = None
    returns: tuple[str, ...] = ()
    fans_out: tuple[str, ...] = ()
    collected_by: tuple[str, ...] = ()
    num_workers: int = 4
    queue: str | None = None
    priority: int | None = None
    timeout_seconds: float | None = None
    accepts_subclasses: bool = False
    recovers: tuple[str, ...] = ()
    max_recoveries: int = 1

    def accepts_event(self, event: Envelope) -> bool:
        """Whether `event` is routed to this step (or to its join)."""
        return self.slot_of(event) is not None

    def join_key(self, event: Envelope) -> str:
        """A key for the value that the events of a set share, if the step joins by a field; else empty."""
        if self.join_by is None:
            return ""
        return f"~{derive_id(json.dumps(event.field(self.join_by), sort_keys=True))}"

    def slot_of(self, event: Envelope) -> str | None:
        """The accepted name under which the step takes this event; None if it does not take it."""
        for name in (event.type, *((*event.parents, EVENT) if self.accepts_subclasses else ())):
            if name in self.accepts:
                return name
        return None

    def binding(self, kind: StepKind, events: Sequence[Envelope]) -> Sequence[int] | None:
        """Which of the events of a work item each parameter takes, as positions; None if the step does not take them.

        The work may have been made for another version of the code: with other classes, or in another order.

        Args:
            kind: The kind of the step for which the work was made.
            events: The events of the work item.
        """
        if kind != self.kind:
            return None
        if kind == "collect" or (kind == "each" and len(events) == 1):
            return range(len(events)) if all(_is_one_of(event, self.accepts) for event in events) else None
        if len(events) != len(self.accepts) or kind == "each":
            return None
        left = list(range(len(events)))
        chosen: list[int] = []
        for name in self.accepts:
            fitting = [at for at in left if _is_one_of(events[at], (name,))]
            if not fitting:
                return None
            best = next((at for at in fitting if events[at].type == name), fitting[0])
            left.remove(best)
            chosen.append(best)
        return chosen


def _is_one_of(event: Envelope, names: tuple[str, ...]) -> bool:
    return event.type in names or EVENT in names or any(parent in names for parent in event.parents)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a work item was made for, to be compared with a step of other code.

    Attributes:
        step: The step.
        kind: Its kind in the run's plan.
        events: Its events, whatever their content; for `collect` one of each class.
    """

    step: str
    kind: StepKind
    events: tuple[Envelope, ...]

    def to_lacked(self) -> str:
        """What the work lacks where the step does not take these events; without bars and spaces."""
        events = [[event.type, *event.parents] for event in self.events]
        return NOT_TAKING + quote(json.dumps([self.step, self.kind, events], separators=(",", ":")))

    @staticmethod
    def from_lacked(text: str) -> Inputs:
        """The inverse of `to_lacked`, without the content of the events."""
        step, kind, events = json.loads(unquote(text.removeprefix(NOT_TAKING)))
        return Inputs(step, kind, tuple(Envelope(name, tuple(parents), b"") for name, *parents in events))

    def fit(self, plan: Plan) -> bool:
        """Whether the step in this plan takes these events."""
        step = plan.by_name.get(self.step)
        return step is not None and step.binding(self.kind, self.events) is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole workflow as data, stored once per `digest` and shard."""

    workflow: str
    start_event: str
    stop_events: tuple[str, ...] = ()
    steps: tuple[StepPlan, ...] = field(default=())

    @cached_property
    def by_name(self) -> dict[str, StepPlan]:
        """Steps by name."""
        return {step.name: step for step in self.steps}

    @cached_property
    def handlers(self) -> tuple[StepPlan, ...]:
        """The `@catch_error` steps."""
        return tuple(step for step in self.steps if step.recovers)

    def accepting(self, event: Envelope) -> tuple[StepPlan, ...]:
        """The steps that consume `event`, in plan order."""
        return tuple(step for step in self.steps if step.accepts_event(event))

    def misroutes(self, event: Envelope, code: Plan) -> bool:
        """Whether no step of this plan takes `event`, although one of `code` (the plan of the emitting code) does.

        Then an event class was renamed or added since the run started. Without a step, the event would be lost.
        """
        return bool(code.digest != self.digest and code.accepting(event) and not self.accepting(event))

    def lacked_by(self, knows: Callable[[str], bool], misrouted: Envelope) -> str:
        """What the code lacks that emitted an event which this plan does not route: see `Registered.has`.

        This is the first class in this plan that the code does not know, which was probably renamed; otherwise, that
        this plan does not route the event.
        """
        unknown = (name for step in self.steps for name in step.accepts if not knows(name))
        return next(unknown, NOT_ROUTING + " ".join((misrouted.type, *misrouted.parents)))

    def handler_of(self, step_name: str) -> StepPlan | None:
        """The `@catch_error` step for a failure of `step_name`: the one that names it, else the wildcard."""
        if step_name in self.by_name and self.by_name[step_name].recovers:
            return None
        named = [handler for handler in self.handlers if step_name in handler.recovers]
        wild = [handler for handler in self.handlers if handler.recovers == ("*",)]
        return next(iter(named or wild), None)

    def with_priority(self, priority: int | None) -> Plan:
        """The plan with a priority for steps without one. It is a different plan with its own digest."""
        return self if priority is None else _prioritized(self, priority)

    def to_json(self) -> bytes:
        """Canonical JSON: equal plans give equal bytes."""
        return self._json

    @cached_property
    def _json(self) -> bytes:
        plan = asdict(self)
        for step in plan["steps"]:
            step["joins"] = step.pop("collected_by")
            step["kind"] = _STORED_KINDS.get(step["kind"], step["kind"])
            for name in [name for name in _UNLESS_SET if not step[name]]:
                del step[name]
        return json.dumps(plan, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def digest(self) -> str:
        """Short name that identifies exactly this plan."""
        return hashlib.blake2b(self.to_json(), digest_size=10).hexdigest()

    @staticmethod
    def from_json(data: bytes) -> Plan:
        """The inverse of `to_json`; unknown fields of a newer version are ignored."""
        raw: dict[str, Any] = json.loads(data)
        known = StepPlan.__dataclass_fields__
        steps = []
        for step in raw["steps"]:
            kind = step.get("kind", "each")
            step |= {"collected_by": step.get("joins", ()), "kind": _KINDS.get(kind, kind)}
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in step.items() if k in known}
            steps.append(StepPlan(**fields))
        return Plan(
            workflow=raw["workflow"],
            start_event=raw["start_event"],
            stop_events=tuple(raw["stop_events"]),
            steps=tuple(steps),
        )


@lru_cache(256)
def _prioritized(plan: Plan, priority: int) -> Plan:
    steps = (replace(step, priority=priority) if step.priority is None else step for step in plan.steps)
    return replace(plan, steps=tuple(steps))
