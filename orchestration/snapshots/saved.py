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
        wait: Names its end among the answers of the work item.
        status: held (until another one has ended), starting, running, …
        on_parent_end: What becomes of it when its parent ends before it.
        workflow: Its workflow.
        plan_digest, plan: Its plan, and that as JSON.
        spec: What else it is started with; None once it was.
        is_kept: It is the child of the run that this one was forked from.
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
        events: Its input: one event, one per slot of a join, or what a fan-in has gathered.
        fan_in: Id of the fan-out it gathers, for a fan-in.
        event_name: What traces call its input.
        scope: Path of the fan-outs around it.
        recoveries: Packed recovery counts, one per event.
        running: An attempt was in progress.
        suspended: It waits for an event, or for `children`.
        children: Open child runs that it waited for, those that are held back last, in their order. Only a fork goes on
            waiting for them.
        due_at: When a delayed retry is due, ms.
        failures, resumptions: Counted so far.
        first_attempt_at, last_failed_at: ms.
        last_error: The last failure, as JSON.
        answers: Waiter id -> the event that answered it, None when it ran out of time.
        ended: Waiter id -> the child run whose end that is, where it is known.
        sent: Identities of events an attempt has sent early.
        calls: Answers that its collect_events calls received.
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


@dataclass(frozen=True, kw_only=True)
class SavedWaiter:
    """What a suspended work item waits for, and until when (ms; None is no limit)."""

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
        recoveries: Packed recovery counts of what its joins emit.
        members: Per join's step what it has gathered so far, in order of arrival.
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
        accepted_as: The type of the parameter that it is for.
        event: The event, which has the value that a set shares.
        recoveries: Packed recovery counts.
        due_at: When its set must be complete, ms; None is no limit.
    """

    step: str
    scope: str
    accepted_as: str
    event: Envelope
    recoveries: str = ""
    due_at: int | None = None


@dataclass(frozen=True)
class SavedSend:
    """An event that was sent and has not reached its steps: only other libraries' snapshots have some."""

    event: Envelope
    target: str | None
    scope: str
    recoveries: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class SavedBuffer:
    """What a step's collect_events buffer holds of one event type, in order of arrival, and until when (ms)."""

    step: str
    buffer_id: str
    members: tuple[Envelope, ...]
    due_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """A run's live state.

    Attributes:
        workflow: The run's workflow.
        status: As it was.
        state: Fields of `ctx.store`, as JSON.
        items: Work items: those being executed first, then each step's queue in order.
        waiters, scopes, slots: See there; scopes outermost first.
        buffers: What collect_events has gathered.
        inbox: Events that no step has accepted yet.
        sets: Of each buffer of a multi-parameter join how many sets it has made: the next one's work item counts on.
        sends: Events on their way; see there.
        spent_seconds: What of its time limit is used up, if it can continue.
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
        """Whether a run can continue from it: the run was running, or was cancelled before its end."""
        return self.status in ("running", "cancelled")
