"""Work items as a worker sees them, and the possible outcomes of executing one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from .envelope import Envelope
from .waiters import Waiter


def derive_id(*parts: str | bytes | int, digest_size: int = 10) -> str:
    """A deterministic id: equal parts give the same id, so a repeated command is absorbed.

    Args:
        *parts: What the id is derived from.
        digest_size: Length in bytes; each gives two hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=digest_size)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()


def buffer_name(step: str, buffer_id: str, event_type: str) -> str:
    """The logical key of one event type in one collect_events buffer of a step."""
    return f"buffer:{derive_id(derive_id(step, buffer_id), event_type)}"


def idempotency_key(run_id: str, work_id: str, branch: int) -> str:
    """A key that is equal in all attempts of a work item, and changes with each rewind of the run."""
    return f"{run_id}/{work_id}" + (f"/{branch}" if branch else "")


@dataclass(frozen=True, slots=True)
class Scope:
    """A work item's place in nested fan-outs.

    `path` is `id:opener/id:opener`, outermost first: the fan-outs' ids and the steps that opened them.
    """

    path: str = ""

    def levels(self) -> list[tuple[str, str, str]]:
        """(scope id, opener step, path up to and including it), innermost first."""
        found: list[tuple[str, str, str]] = []
        path = ""
        for element in self.path.split("/") if self.path else ():
            path = f"{path}/{element}" if path else element
            scope_id, _, opener = element.partition(":")
            found.append((scope_id, opener, path))
        return found[::-1]

    def enter(self, scope_id: str, opener: str) -> Scope:
        """The scope of the events that a fan-out opened here emits."""
        element = f"{scope_id}:{opener}"
        return Scope(f"{self.path}/{element}" if self.path else element)


@dataclass(frozen=True, slots=True)
class Origin:
    """The emitter of an event: the ids of everything emitted are derived from it. `run_id` is `Work.ids_of`."""

    run_id: str
    work_id: str
    scope: Scope = field(default_factory=Scope)
    recoveries: dict[str, int] = field(default_factory=dict)

    def packed_recoveries(self) -> str:
        """The recovery counts as the opaque string that work records carry."""
        return json.dumps(self.recoveries, sort_keys=True, separators=(",", ":")) if self.recoveries else ""


@dataclass(frozen=True, slots=True)
class ForkedFrom:
    """Where a fork comes from; stored in its options, so that every claim contains it.

    Attributes:
        run_id, seq: The run it was forked from, and the point there.
        ids: The run that the ids of its work are derived from: equal work has equal ids in a run and its forks.
        keys: Template of its idempotency keys, with `%s` for the work item, if it keeps those of its origin.
        recorded: It has recorded outcomes or answers to reuse; see `history/forks/recorded.py`.
    """

    run_id: str
    seq: int
    ids: str
    keys: str = ""
    recorded: bool = False

    @staticmethod
    @lru_cache(256)
    def of(options: str) -> ForkedFrom | None:
        """The origin in a run's options, given as JSON; None for a run that is not a fork."""
        about = json.loads(options).get("fork") if '"fork":' in options else None
        return None if about is None else ForkedFrom(**about)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One claimed work item: what to execute and under which token.

    Attributes:
        dispatches: How many dispatches were requested, including those that a continuation made unnecessary.
        failures, losses, resumptions: Counted separately; `attempt` is failures + losses + 1.
        suspicion: How strongly it is suspected of killing processes; 0 is not at all, see `suspicion.py`.
        late: The last attempt exceeded its time limit without reporting.
        bound: The events: one, or one per slot of a join; empty for a fan-in, whose members are read in pages.
        members: Number of members of a fan-in (with `scope_id` naming the fan-out), else None.
        answers: waiter id -> answering event, None for a waiter that timed out.
        ended: waiter id -> the child run whose end answered it, if known.
        kept: waiter id -> the child run that it waited for before the run was retried, and waits for again.
        first_attempt_at, dispatched_at, claimed_at: Redis time, ms.
        queue: The queue it was dispatched to.
        sent_early: An attempt has already flushed sent events; further sends must be checked against them.
        taken: Logical names of collected sets that are deleted when this work item ends.
        segments: Staged leftovers of lost attempts, segment -> size.
    """

    run_id: str
    work_id: str
    step: str
    token: str
    claim_id: str
    owner: str
    slot: int
    scope: Scope
    recoveries: dict[str, int]
    event_name: str
    failures: int
    losses: int
    charged_losses: int
    resumptions: int
    suspicion: int
    late: bool
    dispatches: int
    bound: tuple[Envelope, ...]
    scope_id: str | None
    members: int | None
    answers: dict[str, Envelope | None]
    first_attempt_at: int
    claimed_at: int
    last_error: bytes | None
    last_failed_at: int | None
    sent_early: bool
    taken: tuple[str, ...]
    segments: dict[str, int]
    plan_digest: str
    workflow: str
    state_id: str
    created_at: int
    options: str
    version: int
    branch: int = 0
    ended: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""
    dispatched_at: int = 0

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self.failures + self.losses + 1

    @property
    def ids_of(self) -> str:
        """The run that the ids of its emissions are derived from: its own, or the one it was forked from."""
        forked = ForkedFrom.of(self.options)
        return self.run_id if forked is None else forked.ids

    @property
    def origin(self) -> Origin:
        """This work item as the emitter of events inside its fan-out."""
        return Origin(self.ids_of, self.work_id, self.scope, self.recoveries)

    @property
    def held(self) -> Held:
        """This claim, as in the owner's set in Redis."""
        return Held(self.run_id, self.work_id, self.claim_id)

    @property
    def member(self) -> str:
        """The entry of this claim in the owner's set in Redis."""
        return f"{self.run_id}|{self.work_id}|{self.claim_id}"


@dataclass(frozen=True, slots=True)
class Held:
    """A claim, as in the owner's set in Redis."""

    run_id: str
    work_id: str
    claim_id: str

    @property
    def member(self) -> str:
        """Its form in Redis."""
        return f"{self.run_id}|{self.work_id}|{self.claim_id}"

    @staticmethod
    def parse(member: str) -> Held:
        """The inverse of `member`."""
        return Held(*member.split("|", 2))


@dataclass(frozen=True, slots=True)
class Returned:
    """The step returned one event, or nothing.

    Attributes:
        event: The event.
        ends: Whether a `StopEvent` ends the run; false if the event is the end of a child run.
    """

    event: Envelope | None
    ends: bool = True


@dataclass(frozen=True, slots=True)
class FannedOut:
    """The step returned a list of events."""

    events: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed.

    Attributes:
        error: The exception as JSON, kept for the next attempt's `retry_info()`.
        retry_delay_seconds: Delay from the retry policy; None means the failure is final.
        failed_event: The event for a `@catch_error` handler; None if there is no handler, or none may receive it.
        ending: The event that ends the run if no handler recovers the failure.
        traceback: The traceback for display; the journal keeps it.
    """

    error: bytes
    retry_delay_seconds: float | None
    failed_event: Envelope | None
    ending: Envelope
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The step waits for an event.

    Attributes:
        waiter: What it waits for.
        announce: Event published when the wait begins, if any.
        timeout_seconds: None waits as long as the run exists.
    """

    waiter: Waiter
    announce: Envelope | None
    timeout_seconds: float | None


OnParentEnd = Literal["cancel", "leave", "wait"]


@dataclass(frozen=True, slots=True)
class AwaitedChild:
    """A child run that a step waits for.

    Attributes:
        child_id: Its run id, equal in all executions of the step.
        wait: Name of its end among the answers of the work item.
        workflow: Its workflow.
        plan_digest, plan: The plan it is started with: its digest, and the plan as JSON.
        event_name: Wire name of its start event.
        spec: Further data to start it with: `ChildSpec.to_bytes`.
        on_parent_end: What happens to it if its parent ends first.
    """

    child_id: str
    wait: str
    workflow: str
    plan_digest: str
    plan: bytes
    event_name: str
    spec: bytes
    on_parent_end: OnParentEnd = "cancel"


@dataclass(frozen=True, slots=True)
class Awaiting:
    """The step waits until all of these child runs have ended.

    Attributes:
        children: The runs.
        at_once: How many of them may run at the same time; None for all.
    """

    children: tuple[AwaitedChild, ...]
    at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Grouped:
    """The events of a fan-in form groups: its step is executed once for each group.

    Attributes:
        groups: Each with its key and events.
    """

    groups: tuple[tuple[str, tuple[Envelope, ...]], ...]


Outcome = Returned | FannedOut | Failed | Suspended | Awaiting | Grouped
