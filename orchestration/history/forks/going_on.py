"""Continuing from a point of a run's past: as a new run (a fork), or in place (a rewind)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...connection.keys import RUN_KEYS, new_nonce
from ...engine.protocol import Engine
from ...model.commands import Command, Fill, Publish
from ...model.decide import Limits
from ...model.envelope import Envelope
from ...model.errors import HistoryUnavailable, RunError, RunNotFound, UmbelError
from ...model.plan import Plan
from ...model.work_item import ForkedFrom, idempotency_key
from ...snapshots.restore import PART, begin_from, put_parts, puts
from ...store.replies import Applied, not_found
from ...store.verbs import Store
from ..points import RunAt
from ..scratch import Scratch
from . import children
from .edits import Edits, edited
from .family import remember
from .recorded import Recordings
from .recordings import recordings

logger = logging.getLogger("umbel.history")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a fork keeps of its origin besides work and state.

    Attributes:
        reuse: Outcomes recorded after the point, where nothing they depend on has changed.
        answers: Answers from outside the run, recorded after the point.
        keys: The idempotency keys.
        children: The child runs that its origin waited for; if false, each is forked too.
    """

    reuse: bool = False
    answers: bool = False
    keys: bool = False
    children: bool = True


async def fork(
    engine: Engine,
    point: RunAt,
    run_id: str,
    plan: Plan,
    edits: Edits,
    limits: Limits,
    *,
    announce: Callable[[RunAt], Envelope],
    keeping: Keeping,
    options: dict[str, Any],
    timeout_seconds: float | None,
    num_concurrent_runs: int | None = None,
    in_session: bool = False,
    parent: str | None = None,
    nonce: str | None = None,
) -> None:
    """Begin a run that continues from a point of another one. Steps that were executing then are executed again.

    *Promise:* the other run is only read. The new run begins in one step; a crash before that leaves nothing of it.
    Forked children begin one after another once it has begun. If a crash prevents that, they begin from their starts.

    Args:
        engine: The deployment's engine.
        point: Where the new run continues from.
        run_id: The new run.
        plan: The plan it continues with.
        edits: Changes to make first.
        limits: Limits for routing.
        announce: Makes the event that its stream begins with.
        keeping: What it keeps of its origin besides work and state.
        options: Stored with it.
        timeout_seconds: Its time limit, counted from now.
        num_concurrent_runs: As in `Engine.start`.
        in_session: It is the first run of the session that its id names.
        parent: The run that waits for its end.
        nonce: As in `Engine.start`.

    Raises:
        RunExists: The id is taken.
        SessionBusy, SessionClosed: The session is taken.
        HistoryUnavailable: The origin had ended at the point, it has not had its turn in its session, or its history
            cannot be rebuilt; nothing was written.
        ContextSerdeError, PayloadTooLarge, WorkflowRuntimeError: As `edited`; nothing was written.
    """
    if parent is None:
        _check_turn(point)
    adopt = children.kept if keeping.children else children.forked
    adopted = await adopt(engine.store, point, run_id)
    point, kept = replace(point, snapshot=adopted.snapshot), Recordings()
    if (keeping.reuse or keeping.answers) and point.snapshot.goes_on:
        kept = await recordings(
            engine.store,
            point.run_id,
            point.seq,
            point.snapshot,
            plan,
            outcomes=keeping.reuse,
            answers=keeping.answers,
        )
    now = await _now(engine)
    # In a thread: edits may be large, and may call user code.
    snapshot = await asyncio.to_thread(edited, point, edits, plan, now, kept.answers)
    if not snapshot.items and point.snapshot.status != "running":
        raise HistoryUnavailable(
            f"Run {point.run_id!r} had already ended at point {point.seq}; nothing could continue. Choose an earlier "
            "point."
        )
    await remember(engine.store, point.run_id, run_id, now)
    recorded = kept.fields()
    own = {name: value for name, value in options.items() if name != "spent"}  # its time limit starts over
    reply = await begin_from(
        engine.store,
        run_id,
        plan,
        snapshot,
        [Publish(announce(point)), *adopted.looks],
        limits,
        nonce=nonce or new_nonce(),
        timeout_seconds=timeout_seconds,
        options=own | {"fork": asdict(_origin(point, options, keeping, recorded=bool(recorded)))},
        num_concurrent_runs=num_concurrent_runs,
        recorded=recorded,
        in_session=in_session,
        parent=parent,
    )
    await engine.started(run_id, plan, reply, limited=num_concurrent_runs is not None)
    for child_id, at in adopted.forks.items():
        try:
            await _fork_child(engine, at, child_id, keeping, limits, announce, parent=run_id)
        except UmbelError as error:
            logger.warning("child runs are left to the sweep: %s", error, extra={"action": "child_postponed"})
    if isinstance(reply, Applied):
        await engine.outbox.follow(run_id, reply)


async def _fork_child(
    engine: Engine,
    at: RunAt,
    child_id: str,
    keeping: Keeping,
    limits: Limits,
    announce: Callable[[RunAt], Envelope],
    *,
    parent: str,
) -> None:
    store = engine.store
    record = await store.run(at.run_id)
    limit = await store.command("read a run", "HGET", store.locate(at.run_id)["run"], "limit")
    await fork(
        engine,
        at,
        child_id,
        await store.plan_of(at.run_id),
        Edits(),
        limits,
        announce=announce,
        keeping=keeping,
        options=record.options,
        timeout_seconds=record.options.get("timeout"),
        num_concurrent_runs=int(limit) if limit else None,
        parent=parent,
        nonce=f"{parent}|{child_id}",
    )
    await engine.outbox.settle(f"child|{parent}|{child_id}")


def _origin(point: RunAt, options: Mapping[str, Any], keeping: Keeping, *, recorded: bool) -> ForkedFrom:
    before = ForkedFrom(**options["fork"]) if "fork" in options else None
    ids = point.run_id if before is None else before.ids
    keys = ""
    if keeping.keys and before is not None and before.keys and not point.branch:
        keys = before.keys
    elif keeping.keys:
        keys = idempotency_key(point.run_id, "%s", point.branch)
    return ForkedFrom(point.run_id, point.seq, ids, keys, recorded)


async def rewind(
    engine: Engine,
    point: RunAt,
    edits: Edits,
    limits: Limits,
    *,
    announcement: Envelope,
    stop_running: bool,
    timeout_seconds: float | None,
) -> None:
    """Put a run back to a point of its past, under the same id; its history and stream continue.

    *Promise:* one script. From then on, every outcome, send and write of an attempt that began before is refused.
    Published events stay published. Child runs begun after the point are cancelled; those that the run waited for at
    the point continue. This happens afterwards, in this process or, if it dies, in the sweep.

    Raises:
        RunError: The run is running and `stop_running` is false; or its session has moved on to another run, or it
            waits for its turn in the session.
        RunNotFound: No such run, or its retention is over.
        HistoryUnavailable: The run had no work left at the point, or ended before its turn in its session; nothing was
            written.
        ContextSerdeError, PayloadTooLarge, WorkflowRuntimeError: As `edited`; nothing was written.
    """
    _check_turn(point)
    store, run_id = engine.store, point.run_id
    plan = await store.plan_of(run_id)
    then = await asyncio.to_thread(edited, point, edits, plan, await _now(engine))
    if not then.items:
        raise HistoryUnavailable(
            f"Run {run_id!r} had no work left at point {point.seq}; nothing could continue. Choose an earlier point."
        )
    fills = (Fill(plan.by_name[name]) for name in dict.fromkeys(item.step for item in then.items))
    commands: list[Command] = [Publish(announcement), *fills]
    keys, nonce = store.locate(run_id), new_nonce()
    answer = b"changed"
    while answer == b"changed":
        snapshot, kept = await children.put_back(store, point, then)
        contents = [put for put in puts(run_id, plan, snapshot, limits) if put["o"] not in ("state", "child")]
        dynamic = await store.command("list a run's keys", "SMEMBERS", keys["extra"])
        old = [name.decode().removeprefix(keys.stem) for name in dynamic]
        new = {put["n"] for put in contents if put["o"] in ("list", "sent")}
        async with _aside(store, run_id, contents) as (aside, beside):
            answer, *rest = await store.verb(
                "rewind",
                run_id,
                nonce=nonce,
                stop=stop_running or None,
                **{"from": point.seq},
                old=old,
                state=dict(snapshot.state),
                timeout=None if timeout_seconds is None else round(timeout_seconds * 1000),
                commands=[each.wire() for each in commands],
                children=kept,
                extra={name: keys[name] for name in sorted({*old, *new})} | beside,
                body={"puts": contents},
                **aside,
            )
    if answer == b"unknown":
        raise RunNotFound(not_found(run_id))
    if answer != b"rewound":
        raise RunError(_REFUSED[answer.decode()].format(run=run_id))
    applied = store.applied(run_id, rest[0])
    await engine.dispatch(run_id, applied.dispatches)
    await engine.quota.take(run_id)
    await engine.outbox.follow(run_id, applied)


def _check_turn(point: RunAt) -> None:
    if point.lacks_state:
        raise HistoryUnavailable(
            f"Run {point.run_id!r} has not had its turn in its session, so at point {point.seq} the state that it "
            "begins with is not known. Continue from the point once the run has begun; if it ended before its turn, "
            "start a new run."
        )


@asynccontextmanager
async def _aside(
    store: Store, run_id: str, contents: Sequence[dict[str, Any]]
) -> AsyncIterator[tuple[dict[str, Any], dict[str, str]]]:
    """Stage large contents in scratch keys, in parts, for one short script to move; drops the keys at the end.

    Yields:
        Arguments for `rewind`, and the keys that it needs besides.
    """
    if len(contents) <= PART:
        yield {}, {}
        return
    scratch = Scratch(store, run_id)
    try:
        parts = await put_parts(store, run_id, contents, nonce=new_nonce(), keys=scratch.keys, aside=True)
        names = [name for name, key in RUN_KEYS.items() if key.spent]
        names += sorted({put["n"] for put in contents if put["o"] in ("list", "sent")})
        yield (
            {"aside": names, "parts": parts},
            {f"aside:{name}": scratch.keys[name] for name in (*names, "run", "timers", "outbox")},
        )
    finally:
        await scratch.drop()


_REFUSED = {
    "running": "Run {run!r} is running; rewind it with stop_running=True, or once it has ended.",
    "superseded": "Run {run!r} cannot be rewound: its session is at another run, or it waits for its turn. Fork it "
    "once it has begun.",
}


async def _now(engine: Engine) -> int:
    seconds, micros = await engine.store.command("read the clock", "TIME")
    return int(seconds) * 1000 + int(micros) // 1000
