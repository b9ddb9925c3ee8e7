"""What a snapshot holds: a run's live state as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..model.envelope import Envelope
from ..model.waiters import Waiter


@dataclass(frozen=True, kw_only=True)
class SavedChild:
    """A child run that a work item waits for.

    Attributes:
        child_id: The run.
        wait: Name of its end among the answers of the work item.
        status: held (until another one has ended), starting, running, …
        on_parent_end: What happens to it if its parent ends first.
        workflow: Its workflow.
        plan_digest, plan: Its plan: the digest, and the plan as JSON.
        spec: Further data to start it with; None once it was started.
        is_kept: It is a child of the run that this one was forked from.
    """

    child_id: str
    wait: str
    status: str
    on_parent_end: str
    workflow: str
    plan_digest: str
    plan: bytes | None
    spec: bytes | None
    is_kept: bool = False


@dataclass(frozen=True, kw_only=True)
class SavedItem:
    """One work item that has not ended.

    Attributes:
        work_id: Its id, which a restored run keeps.
        step: The step that executes it.
        events: Its input: one event, one per slot of a join, or those that a fan-in has collected.
        fan_in: Id of the fan-out that it collects, for a fan-in; its own id for a group that is stored like a fan-in,
            because it is large. Of a smaller group it is None, as of work that collects nothing.
        event_name: Name of its input in traces.
        scope: Path of the fan-outs around it.
        recoveries: Packed recovery counts, one per event.
        running: An attempt was in progress.
        suspended: It waits for an event, or for `children`.
        children: Open child runs that it waited for; held ones last, in their order. Only a fork continues to wait for
            them.
            waiting for them.
        due_at: When a delayed retry is due, ms.
        failures, resumptions: Their counts so far.
        first_attempt_at, last_failed_at: ms.
        last_error: The last failure, as JSON.
        answers: Waiter id -> the event that answered it, None if it timed out.
        ended: Waiter id -> the child run whose end answered it, if known.
        sent: Identities of events that an attempt sent early.
        calls: Replies that its collect_events calls received.
        taken: Names and members of the collect_events sets it received.
    """

    work_id: str
    step: str
    events: tuple[Envelope, ...]
    fan_in: str | None = None
    event_name: str = ""
    scope: str = ""
    recoveries: tuple[str, ...] = ("",)
    running: bool = False
    suspended: bool = False
    due_at: int | None = None
    failures: int = 0
    resumptions: int = 0
    first_attempt_at: int | None = None
    last_failed_at: int | None = None
    last_error: bytes | None = None
    answers: Mapping[str, Envelope | None] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    sent: tuple[str, ...] = ()
    calls: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, tuple[Envelope, ...]] = field(default_factory=dict)
    children: tuple[SavedChild, ...] = ()

    @property
    def is_large_group(self) -> bool:
        """Whether its events are a group that is stored like a fan-in. A fan-in is named differently from its work."""
        return self.fan_in == self.work_id


@dataclass(frozen=True, kw_only=True)
class SavedWaiter:
    """What a suspended work item waits for, and until when (ms; None for no limit)."""

    waiter: Waiter
    due_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class SavedScope:
    """An open fan-out.

    Attributes:
        scope_id: Its id.
        parent: Path of the fan-outs around it.
        joins: (work id of the fan-in to come, its step).
        fired: Steps of joins that have fired already (`Take(n)`).
        recoveries: Packed recovery counts for the work of its joins.
        members: Step of a join -> what it has collected so far, in order of arrival.
    """

    scope_id: str
    parent: str = ""
    joins: tuple[tuple[str, str], ...] = ()
    fired: tuple[str, ...] = ()
    recoveries: str = ""
    members: Mapping[str, tuple[Envelope, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SavedSlot:
    """An event in the buffer of a multi-parameter join.

    Attributes:
        step: The step that joins.
        scope: Path of the fan-outs around it.
        accepted_as: The parameter type that it fills.
        event: The event, including the value that its set shares.
        recoveries: Packed recovery counts.
        due_at: When its set must be complete, ms; None for no limit.
    """

    step: str
    scope: str
    accepted_as: str
    event: Envelope
    recoveries: str = ""
    due_at: int | None = None


@dataclass(frozen=True)
class SavedSend:
    """An event that was sent but has not reached its steps. Only snapshots of other libraries contain such events."""

    event: Envelope
    target: str | None
    scope: str
    recoveries: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class SavedBuffer:
    """The events of one type in a step's collect_events buffer, in order of arrival, and its time limit (ms)."""

    step: str
    buffer_id: str
    members: tuple[Envelope, ...]
    due_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """A run's live state.

    Attributes:
        workflow: The run's workflow.
        status: Status of the run.
        state: Fields of `ctx.store`, as JSON.
        items: Work items: those being executed first, then each step's queue in order.
        waiters, scopes, slots: See the classes; scopes outermost first.
        buffers: The events that collect_events has collected.
        inbox: Events that no step has accepted yet.
        sets: Buffer of a multi-parameter join -> number of sets it has completed, from which the next work item's id
            follows.
        sends: Sent events on their way; see `SavedSend`.
        spent_seconds: Used part of its time limit, if the run can continue.
    """

    workflow: str
    status: str
    state: Mapping[str, bytes] = field(default_factory=dict)
    items: tuple[SavedItem, ...] = ()
    waiters: tuple[SavedWaiter, ...] = ()
    scopes: tuple[SavedScope, ...] = ()
    slots: tuple[SavedSlot, ...] = ()
    buffers: tuple[SavedBuffer, ...] = ()
    inbox: tuple[Envelope, ...] = ()
    sets: Mapping[str, int] = field(default_factory=dict)
    sends: tuple[SavedSend, ...] = ()
    spent_seconds: float = 0

    @property
    def goes_on(self) -> bool:
        """Whether a run can continue from this: it was running, or was cancelled before its end."""
        return self.status in ("running", "cancelled")
