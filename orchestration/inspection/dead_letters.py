"""Dead letters: runs and work that do not continue by themselves, for people to look at and to resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..model.errors import WorkerLost
from ..store.replies import RunRecord, pairs
from ..store.verbs import Store
from .endings import exception_text
from .run_list import newest_runs
from .timeline import Execution, executions

Reason = Literal["worker lost", "retries exhausted", "failed", "stuck"]


@dataclass(frozen=True, slots=True)
class DeadRun:
    """A failed run.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        step: The step on which it failed; empty for a fan-out that could not complete.
        reason: `worker lost` repeatedly, `retries exhausted`, `failed` without a retry, or `stuck`: a fan-out is open
            and no remaining step could complete it.
        attempts: Attempts of that step, including lost ones; 0 if there was no step.
        error: The last exception.
        failed_at: Redis ms.
    """

    run_id: str
    workflow: str
    step: str
    reason: Reason
    attempts: int
    error: str
    failed_at: int


@dataclass(frozen=True, slots=True)
class ParkedWork:
    """A work item that waits for a worker with its code; its run continues when one starts.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        step: Its step.
        parked_at: When it was last parked, in Redis ms.
    """

    run_id: str
    workflow: str
    step: str
    parked_at: int


async def dead_runs(store: Store, *, workflow: str | None = None, limit: int = 100) -> list[DeadRun]:
    """Failed runs, the latest first; `Engine.retry` resumes one.

    Args:
        store: The runs.
        workflow: Only of this workflow; the last part of its name suffices.
        limit: At most this many.
    """
    asked = limit
    while True:
        records = await newest_runs(store, status="failed", limit=asked)
        found = [each for each in records if _is_of(workflow, each)]
        if len(found) >= limit or len(records) < asked:
            return [_dead(record) for record in found[:limit]]
        asked *= 4


def _is_of(workflow: str | None, work: RunRecord | ParkedWork) -> bool:
    return workflow in (None, work.workflow, work.workflow.rpartition(".")[2])


def _dead(record: RunRecord) -> DeadRun:
    value = record.ending.value() if record.ending is not None else {}
    exception = value.get("exception") or {}
    attempts = value.get("attempts") or 0
    lost = str(exception.get("exception_type", "")).rpartition(".")[2] == WorkerLost.__name__
    reason: Reason = "failed"
    if lost:
        reason = "worker lost"
    elif not value.get("step_name"):
        reason = "stuck"
    elif attempts > 1:
        reason = "retries exhausted"
    return DeadRun(
        record.run_id,
        record.workflow,
        value.get("step_name") or "",
        reason,
        attempts,
        exception_text(exception),
        record.ended_at or record.created_at,
    )


async def history(store: Store, dead: DeadRun) -> list[Execution]:
    """All executions of the work item on which a run failed, oldest first."""
    found = [each for each in executions(await store.journal(dead.run_id)) if each.step == dead.step]
    failed = next((each.work_id for each in reversed(found) if each.outcome == "failed"), None)
    return [each for each in found if each.work_id == failed]


async def parked_work(store: Store, *, workflow: str | None = None, limit: int = 100) -> list[ParkedWork]:
    """Parked work of running runs, longest parked first.

    Args:
        store: The runs.
        workflow: Only of this workflow; the last part of its name suffices.
        limit: At most this many.
    """
    asked = limit
    while True:
        pages = await store.batch(
            "list parked work",
            *(
                ("ZRANGE", store.keys.in_shard(shard, "parked"), 0, asked - 1, "WITHSCORES")
                for shard in range(store.settings.shards)
            ),
        )
        members = [pairs(page) for page in pages]
        parked = (_parked(member, at) for page in members for member, at in page.items())
        found = [each for each in parked if _is_of(workflow, each)]
        # Parked work of a run that has ended stays in the index for a while.
        statuses = await store.batch(
            "look at runs", *(("HGET", store.locate(each.run_id)["run"], "status") for each in found)
        )
        running = [each for each, status in zip(found, statuses, strict=True) if status == b"running"]
        if len(running) >= limit or all(len(page) < asked for page in members):
            return sorted(running, key=lambda each: each.parked_at)[:limit]
        asked *= 4


def _parked(member: bytes, parked_at: bytes) -> ParkedWork:
    workflow, name, run_id, _ = member.decode().split("|", 3)
    return ParkedWork(run_id, workflow, name.partition("@")[0], int(float(parked_at)))
