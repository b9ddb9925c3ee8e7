"""Redis's replies as values: dispatches, refusals, runs, claimed work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import msgpack

from ..model.envelope import FAILED, Envelope, ending
from ..model.errors import NotRetried, RunError, RunNotFound
from ..model.work_item import Scope, Work
from . import record as work_record
from .record import WorkRecord
from .scripts import unpack

_CHILD = "child|"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The content of a Celery message: there is work on this item. Losing or duplicating it changes nothing."""

    run_id: str
    work_id: str
    dispatch_no: int
    step: str
    queue: str
    priority: int


@dataclass(frozen=True, slots=True)
class CarryOn:
    """The offer to continue with one work item that one's commit makes ready; the commit's reply has the claim.

    Attributes:
        claim_id: Identifies the claim, as in `Store.claim`.
        not_steps: Steps that the process cannot or may not execute.
    """

    claim_id: str
    not_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Following:
    """The next run of a session, which began when the one before it ended.

    Attributes:
        run_id: The run.
        plan_digest: Digest of its plan.
        dispatches: To be sent as messages.
        limited: Whether it still waits for its admission; see `engine/concurrency.py`.
    """

    run_id: str
    plan_digest: str
    dispatches: tuple[Dispatch, ...]
    limited: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """A verb was applied (now, or earlier and this is its remembered answer).

    Attributes:
        dispatches: To be sent as messages.
        ended: Whether it ended the run.
        leaving: The admission to a limited workflow that the end of the run releases; see `engine/concurrency.py`.
        following: The run of the same session that it began.
        interrupted: The run of the same session that it ended, and what follows from that end.
        continued: Work that the caller has claimed with it.
        starts, looks: Child runs that are to be started, and to be checked; see `engine/children`.
        rests: Fan-outs whose unfinished work is to be cancelled.
        reports: The run that waits for the end of this one, if this one has ended.
        parted: Whether the run has ended and had child runs.
        plan: Digest of the run's plan, from verbs whose caller need not know it.
    """

    dispatches: tuple[Dispatch, ...] = ()
    ended: bool = False
    leaving: str | None = None
    following: Following | None = None
    interrupted: tuple[str, Applied] | None = None
    continued: Work | None = None
    starts: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()
    rests: tuple[str, ...] = ()
    reports: str | None = None
    parted: bool = False
    plan: str | None = None


class Refusal(StrEnum):
    """Why a verb was not applied. None of them is an error: another process was first."""

    BUSY = "busy"
    STALE = "stale"
    CLOSED = "closed"
    FENCED = "fenced"
    SUSPECT = "suspect"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    MISSING = "missing"
    EXISTS = "exists"
    RUNNING = "running"
    FULL = "full"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: its status, and its terminal event."""

    status: str
    ending: Envelope | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as it is now.

    `ending` is the terminal event, `status` one of running, completed, failed, cancelled, timed_out; instants are
    Redis time in ms. `waits_for_admission`: started but not begun, because of its workflow's concurrency limit.
    `is_queued`: started but not begun, because another run of its session is in progress. `asleep` is how many of its
    `live` work items wait for an event.
    """

    run_id: str
    workflow: str
    plan_digest: str
    status: str
    created_at: int
    ended_at: int | None
    ending: Envelope | None
    state_id: str
    parent: str | None
    options: dict[str, Any]
    commits: int
    live: int
    waits_for_admission: bool
    is_queued: bool
    asleep: int = 0

    @property
    def is_asleep(self) -> bool:
        """Whether it is running and all work left waits for an event; none is left if a step only asked for one."""
        is_begun = not (self.waits_for_admission or self.is_queued)
        return self.status == "running" and is_begun and self.live == self.asleep


#: The terminal event of a run whose fan-out can no longer close.
STUCK = ending(
    FAILED,
    step_name="",
    exception={
        "exception_type": "umbel.WorkflowRuntimeError",
        "exception_message": "A fan-out is still open, but no step is left that could complete it. An event of it was "
        "sent where no join gathers it.",
    },
    attempts=None,
    elapsed_seconds=None,
)


def not_found(run_id: str) -> str:
    return (
        f"No run {run_id!r}: it was never started on this Redis and key prefix, or its retention is over. "
        "`umbel runs` lists the runs there are."
    )


def applied(run_id: str, body: bytes) -> Applied:
    """Decode the answer of a verb that was applied to a run."""
    return _applied(run_id, unpack(body))


def _applied(run_id: str, answer: dict[str, Any]) -> Applied:
    following, interrupted = answer.get("following"), answer.get("interrupted")
    if following is not None:
        begun = following["run"]
        following = Following(begun, following["plan"], _dispatches(begun, following), bool(following.get("limited")))
    return Applied(
        _dispatches(run_id, answer),
        bool(answer.get("ended")),
        answer.get("leaving"),
        following,
        None if interrupted is None else (interrupted["run"], _applied(interrupted["run"], interrupted)),
        starts=tuple(answer.get("starts") or ()),
        looks=tuple(answer.get("looks") or ()),
        rests=tuple(answer.get("rests") or ()),
        reports=answer.get("reports"),
        parted=bool(answer.get("parted")),
        plan=answer.get("plan") or None,
    )


def _dispatches(run_id: str, answer: dict[str, Any]) -> tuple[Dispatch, ...]:
    return tuple(Dispatch(run_id, b["w"], b["d"], b["s"], b["q"], b["p"]) for b in answer.get("dispatches") or ())


def not_retried(run_id: str, reason: str) -> RunError:
    """Why a run could not be retried, as an error."""
    if reason == "unknown":
        return RunNotFound(not_found(run_id))
    texts = {
        "running": f"Run {run_id!r} is running; there is nothing to retry. See it with: umbel show {run_id}",
        "completed": f"Run {run_id!r} has completed; there is nothing to retry. Start a new one: umbel start TARGET",
        "superseded": f"Run {run_id!r} cannot be retried: its handler has gone on to another run.",
        "nothing": f"Run {run_id!r} has no unfinished step that could be taken up again. Start a new one.",
    }
    return NotRetried(texts.get(reason, f"Run {run_id!r} cannot be retried: it is {reason}."), reason)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A flat reply of names and values as a dict: HGETALL, a stream entry's fields, WITHSCORES."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def unpack_raw(data: bytes) -> dict[bytes, Any]:
    """Decode msgpack whose values may be payloads; strings are returned as bytes."""
    return cast(dict[bytes, Any], msgpack.unpackb(data, raw=True))


def run_record(run_id: str, raw: dict[bytes, bytes]) -> RunRecord:
    def text(name: bytes) -> str | None:
        return raw[name].decode() if name in raw else None

    return RunRecord(
        run_id=run_id,
        workflow=text(b"workflow") or "",
        plan_digest=text(b"plan") or "",
        status=text(b"status") or "",
        created_at=int(raw[b"created_at"]),
        ended_at=int(raw[b"ended_at"]) if b"ended_at" in raw else None,
        ending=Envelope.from_bytes(raw[b"ending"]) if b"ending" in raw else None,
        state_id=text(b"state_id") or run_id,
        parent=text(b"parent"),
        options=json.loads(raw.get(b"options") or b"{}"),
        commits=int(raw.get(b"commits", 0)),
        live=int(raw.get(b"live", 0)),
        waits_for_admission=b"unbegun" in raw and b"queued" not in raw,
        is_queued=b"queued" in raw,
        asleep=int(raw.get(b"asleep", 0)),
    )


def claimed_work(
    run_id: str, work_id: str, record: dict[str, Any], meta: dict[str, Any], payloads: list[bytes]
) -> Work:
    """The work that a claim returned: from the unpacked record, fields of the run, and the events."""
    return _work(run_id, work_id, work_record.read(record), meta, payloads)


def _work(run_id: str, work_id: str, record: WorkRecord, meta: dict[str, Any], payloads: list[bytes]) -> Work:
    events = len(record.all_event_ids)
    bound = tuple(Envelope.from_bytes(raw) for raw in payloads[:events])
    pairs = payloads[events:]
    answers = {
        pairs[i].decode(): Envelope.from_bytes(pairs[i + 1]) if pairs[i + 1] else None for i in range(0, len(pairs), 2)
    }
    recoveries: dict[str, int] = {}
    for packed in record.recoveries_each or (record.recoveries,):
        for handler, n in (json.loads(packed) if packed else {}).items():
            recoveries[handler] = max(n, recoveries.get(handler, 0))
    assert record.first_attempt_at is not None  # the claim has set both
    assert record.claimed_at is not None
    return Work(
        run_id=run_id,
        work_id=work_id,
        step=record.step,
        token=record.token,
        claim_id=record.claim_id,
        owner=record.owner,
        slot=record.slot or 0,
        scope=Scope(record.scope),
        recoveries=recoveries,
        event_name=record.event_name,
        failures=record.failures,
        losses=record.losses,
        charged_losses=record.charged_losses,
        resumptions=record.resumptions,
        suspicion=record.suspicion,
        late=record.late,
        dispatches=record.dispatch_no,
        bound=bound,
        scope_id=record.scope_id,
        members=record.members,
        answers=answers,
        first_attempt_at=record.first_attempt_at,
        claimed_at=record.claimed_at,
        last_error=record.last_error,
        last_failed_at=record.last_failed_at,
        sent_early=record.sent_early,
        taken=record.taken,
        segments=dict(record.segments),
        plan_digest=meta["plan"],
        workflow=meta["workflow"],
        state_id=meta["state_id"],
        created_at=meta["created_at"],
        options=meta["options"],
        version=meta["wv"],
        branch=meta.get("branch") or 0,
        ended=ends_of_children(record),
        kept=record.kept,
        queue=record.queue,
        dispatched_at=record.dispatched_at or record.claimed_at,
    )


def ends_of_children(record: WorkRecord) -> dict[str, str]:
    """Waiter -> child run, for each answer that is the end of a child run; `lua/lib/children.lua` names them so."""
    return {wait: str(event).removeprefix(_CHILD) for wait, event in record.answers.items() if str(event)[:6] == _CHILD}


def continued_work(before: Work, reply: list[Any]) -> Work:
    """The work that a commit returned to its caller: it is of the same run, so most of it is known."""
    work_id, record, version, *payloads = reply
    meta = {
        "plan": before.plan_digest,
        "workflow": before.workflow,
        "state_id": before.state_id,
        "created_at": before.created_at,
        "options": before.options,
        "branch": before.branch,
        "wv": version,
    }
    return _work(before.run_id, work_id.decode(), work_record.decode(record), meta, payloads)


def hopped_work(
    before: Work,
    step: str,
    work_id: str,
    event: Envelope,
    *,
    queue: str,
    claim_id: str,
    token: int,
    slot: int,
    claimed_at: int,
) -> Work:
    """The work that a hop returned to its caller.

    The previous work was just as simple (`engine/quick.py`), so everything else is copied from it.
    """
    made = object.__new__(Work)  # five times as fast as its constructor
    vars(made).update(
        vars(before),
        step=step,
        work_id=work_id,
        token=f"{token}-{claim_id}",
        claim_id=claim_id,
        slot=slot,
        event_name=event.type,
        bound=(event,),
        first_attempt_at=claimed_at,
        claimed_at=claimed_at,
        queue=queue,
        dispatched_at=claimed_at,
        dispatches=1,
        failures=0,
        losses=0,
        charged_losses=0,
        resumptions=0,
        suspicion=0,
        late=False,
        last_error=None,
        last_failed_at=None,
    )
    return made
