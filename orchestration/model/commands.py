"""Commands: what a decision wants done, as frozen values that the Lua side applies in order.

Each class is one function in `lua/lib/apply.lua`; `wire()` is its msgpack form. A command changes Redis in O(1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from .envelope import INPUT_REQUIRED, Envelope
from .plan import StepPlan
from .work_item import AwaitedChild

EndStatus = Literal["completed", "failed", "cancelled", "timed_out"]
#: Statuses of an ended run.
END_STATUSES: tuple[EndStatus, ...] = get_args(EndStatus)
#: What happens to a run started in a session while another one is running. `join` sends that run the start event.
WhenBusy = Literal["queue", "reject", "interrupt", "rollback", "join"]
#: All statuses of a run, in the order of lists and figures.
RUN_STATUSES = ("running", *END_STATUSES)


def _present(**fields: Any) -> dict[str, Any]:
    """Drop None: a Lua table cannot hold nil."""
    return {name: value for name, value in fields.items() if value is not None}


def where(step: StepPlan, default_queue: str) -> dict[str, Any]:
    """The fields of a command that come from the step's plan; they are copied into the records that it creates."""
    limit = None if step.timeout_seconds is None else round(step.timeout_seconds * 1000)
    return _present(s=step.name, nw=step.num_workers, q=step.queue or default_queue, p=step.priority, to=limit)


@dataclass(frozen=True, slots=True)
class KeepEvent:
    """Keep an event's envelope while `uses` work items refer to it.

    With `in_record`, a work item of the same decision is its only use: the event, which is small, goes into that
    record.
    """

    event_id: str
    event: Envelope
    uses: int
    in_record: bool = False

    def wire(self) -> dict[str, Any]:
        one = 1 if self.in_record else None
        return {"o": "keep"} | _present(e=self.event_id, d=self.event.to_bytes(), uses=self.uses, one=one)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Create the work item `work_id`: one stored event for a step, or several that a fan-in has collected.

    With `members`, its events are that many members of a list named after the work item.
    """

    work_id: str
    step: StepPlan
    queue: str
    event_id: str
    event_name: str
    scope: str
    recoveries: str
    event_ids: tuple[str, ...] = ()
    members: int | None = None

    def wire(self) -> dict[str, Any]:
        events = {"es": list(self.event_ids)} if self.event_ids else {"e": self.event_id}
        return (
            where(self.step, self.queue)
            | events
            | {
                "o": "deliver",
                "w": self.work_id,
                "en": self.event_name,
                "sc": self.scope,
                "rc": self.recoveries,
            }
        )


@dataclass(frozen=True, slots=True)
class OpenScope:
    """Begin a fan-out: count its open work, and record which collect steps run when it closes."""

    scope_id: str
    parent: str
    joins: tuple[tuple[str, StepPlan], ...]
    queue: str
    recoveries: str

    def wire(self) -> dict[str, Any]:
        joins = [
            where(step, self.queue) | {"w": work_id} | _present(take=step.take, rest=step.cancel_rest or None)
            for work_id, step in self.joins
        ]
        return {"o": "open", "id": self.scope_id, "p": self.parent, "j": joins, "rc": self.recoveries}


@dataclass(frozen=True, slots=True)
class Splice:
    """Turn a staged segment of `size` records into work of `step`."""

    step: StepPlan
    segment: str
    size: int
    scope: str

    def wire(self) -> dict[str, Any]:
        return {
            "o": "splice",
            "s": self.step.name,
            "nw": self.step.num_workers,
            "seg": self.segment,
            "n": self.size,
            "sc": self.scope,
        }


@dataclass(frozen=True, slots=True)
class Fill:
    """Give the free slots of a step to the work in its FIFO; only a restored or rewound run needs this."""

    step: StepPlan

    def wire(self) -> dict[str, Any]:
        return {"o": "fill", "s": self.step.name, "nw": self.step.num_workers}


@dataclass(frozen=True, slots=True)
class Absorb:
    """Add an event to the members that a collect step collects from one fan-out."""

    scope_id: str
    step: str
    event: Envelope

    def wire(self) -> dict[str, Any]:
        return {
            "o": "absorb",
            "id": self.scope_id,
            "s": self.step,
            "d": self.event.to_bytes(),
            "en": self.event.type,
        }


@dataclass(frozen=True, slots=True)
class Join:
    """Fill one slot of a multi-parameter join; the event that completes a set creates the work item.

    Events with different `key` belong to different sets. A key is `~` and a digest of the value that the events share.
    """

    work_stem: str
    step: StepPlan
    queue: str
    slot: str
    event_id: str
    event_name: str
    scope: str
    recoveries: str
    key: str = ""

    def wire(self) -> dict[str, Any]:
        within = self.step.within_seconds
        more = _present(ky=self.key or None, wi=None if within is None else max(1, round(within * 1000)))
        return (
            where(self.step, self.queue)
            | more
            | {
                "o": "join",
                "w": self.work_stem,
                "ty": self.slot,
                "slots": list(self.step.accepts),
                "e": self.event_id,
                "en": self.event_name,
                "sc": self.scope,
                "rc": self.recoveries,
            }
        )


@dataclass(frozen=True, slots=True)
class Publish:
    """Write an event to the run's stream."""

    event: Envelope
    step: str = ""
    attempt: int = 0

    def wire(self) -> dict[str, Any]:
        ask = self.event.type if self.event.is_a(INPUT_REQUIRED) else None
        return {"o": "publish", "d": self.event.to_bytes(), "s": self.step, "a": self.attempt} | _present(ask=ask)


@dataclass(frozen=True, slots=True)
class Trace:
    """Write a step's change of state (or an unhandled event) to the run's trace."""

    step: str
    state: str
    worker: str
    input: str = ""
    output: str = ""

    def wire(self) -> dict[str, Any]:
        return {"o": "trace", "s": self.step, "st": self.state, "k": self.worker, "i": self.input, "out": self.output}


@dataclass(frozen=True, slots=True)
class KeepInInbox:
    """Keep an event that no step accepts yet, for a later waiter."""

    event_id: str
    event: Envelope
    limit: int

    def wire(self) -> dict[str, Any]:
        return {"o": "inbox", "e": self.event_id, "d": self.event.to_bytes(), "max": self.limit}


@dataclass(frozen=True, slots=True)
class TakeFromInbox:
    """Remove an event from the inbox because a waiter has found it."""

    event_id: str

    def wire(self) -> dict[str, Any]:
        return {"o": "take_inbox", "e": self.event_id}


@dataclass(frozen=True, slots=True)
class Resume:
    """Answer a waiter: its suspended step runs again, with the stored event."""

    work_id: str
    waiter_id: str
    event_id: str | None
    event_name: str | None = None

    def wire(self) -> dict[str, Any]:
        return {"o": "resume"} | _present(w=self.work_id, wt=self.waiter_id, e=self.event_id, en=self.event_name)


@dataclass(frozen=True, slots=True)
class Suspend:
    """The committing work item waits for an event; it holds no slot and no process meanwhile."""

    waiter_id: str
    waiter: bytes
    timeout_ms: int | None

    def wire(self) -> dict[str, Any]:
        return {"o": "suspend"} | _present(wt=self.waiter_id, d=self.waiter, delay=self.timeout_ms)


@dataclass(frozen=True, slots=True)
class KeepPlan:
    """Keep a plan with which child runs will be started."""

    digest: str
    plan: bytes

    def wire(self) -> dict[str, Any]:
        return {"o": "child_plan", "pl": self.digest, "d": self.plan}


@dataclass(frozen=True, slots=True)
class Spawn:
    """Have a child run started, unless an earlier execution of the committing work item did so; see `AwaitedChild`.

    With `held` (its position among the work item's held children) it starts only when a child before it has ended.
    """

    child: AwaitedChild
    held: int | None = None

    def wire(self) -> dict[str, Any]:
        child = self.child
        return {
            "o": "spawn",
            "id": child.child_id,
            "wt": child.wait,
            "wf": child.workflow,
            "pl": child.plan_digest,
            "sp": child.spec,
            "en": child.event_name,
            "pe": child.on_parent_end,
        } | _present(n=self.held)


@dataclass(frozen=True, slots=True)
class LookAtChild:
    """For a fork's child: begin it or check whether it has ended, after `later` times the redispatch pause."""

    child_id: str
    begin: bool
    later: int = 0

    def wire(self) -> dict[str, Any]:
        return {"o": "look", "id": self.child_id} | _present(go=self.begin or None, later=self.later or None)


@dataclass(frozen=True, slots=True)
class AwaitChildren:
    """The committing work item waits until these child runs have ended."""

    child_ids: tuple[str, ...]

    def wire(self) -> dict[str, Any]:
        return {"o": "await", "ids": list(self.child_ids)}


@dataclass(frozen=True, slots=True)
class Done:
    """The committing work item is finished: delete its record and buffers, free its slot, decrement its scope."""

    def wire(self) -> dict[str, Any]:
        return {"o": "done"}


@dataclass(frozen=True, slots=True)
class Retry:
    """The committing work item failed and is retried after a durable delay."""

    delay_ms: int
    error: bytes

    def wire(self) -> dict[str, Any]:
        return {"o": "retry", "delay": self.delay_ms, "error": self.error}


@dataclass(frozen=True, slots=True)
class Fail:
    """The committing work item failed and fails the run; it is kept so that the run can be resumed."""

    error: bytes

    def wire(self) -> dict[str, Any]:
        return {"o": "fail", "error": self.error}


@dataclass(frozen=True, slots=True)
class Finish:
    """End the run. The first one wins."""

    status: EndStatus
    event: Envelope

    def wire(self) -> dict[str, Any]:
        return {"o": "finish", "status": self.status, "d": self.event.to_bytes(), "en": self.event.type}


Command = (
    KeepEvent
    | Deliver
    | OpenScope
    | Splice
    | Fill
    | Absorb
    | Join
    | Publish
    | Trace
    | KeepInInbox
    | TakeFromInbox
    | Resume
    | Suspend
    | KeepPlan
    | Spawn
    | LookAtChild
    | AwaitChildren
    | Done
    | Retry
    | Fail
    | Finish
)
