"""A deployment as JSON for the console page: whether it is healthy, what is stuck, what is slow. Only shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...orchestration.engine.concurrency import LimitUse
from ...orchestration.engine.worker_directory import SeenWorker
from ...orchestration.inspection.dead_letters import DeadRun, ParkedWork
from ...orchestration.inspection.metrics import PART_SECONDS, Ended, Memory, Metrics, quantile

#: Thresholds beyond which a figure is reported as a problem.
LAG_SECONDS, UNCLAIMED_SECONDS, MEMORY_SHARE = 15.0, 60.0, 0.85
#: Steps that the overview lists, the slowest first.
STEPS = 200
#: Characters of an error that are compared and shown.
_ERROR_CHARACTERS = 300


def problems_of(
    metrics: Metrics, workers: Iterable[SeenWorker], unserved: Sequence[str], memory: Memory, refused: str = ""
) -> list[dict[str, str]]:
    """Problems that need attention, worst first: a text, and the place on the page that shows more.

    Args:
        metrics: Metrics of the deployment.
        workers: The registered workers.
        unserved: Workflows whose code no live worker has.
        memory: Memory of Redis.
        refused: Why Redis takes no writes, so that no worker can announce itself; empty if it takes them.
    """
    found: list[tuple[str, str]] = []
    if refused:
        found.append((refused, "#/"))
    elif not any(worker.is_live for worker in workers):
        found.append(("No worker is running: nothing continues. Start one: umbel worker", "#/workers"))
    elif unserved:
        found.append((f"No live worker has the code of {', '.join(unserved)}.", "#/workers"))
    lost = [worker.name for worker in workers if not worker.is_live]
    if lost and not refused:
        found.append((f"{len(lost)} of the workers stopped answering: {', '.join(lost[:3])}", "#/workers"))
    if metrics.sweep_lag_seconds > LAG_SECONDS:
        found.append((f"Timers and leases are {metrics.sweep_lag_seconds:.0f} s late: no worker sweeps.", "#/workers"))
    for queue, each in metrics.unclaimed.items():
        if each.oldest_seconds > UNCLAIMED_SECONDS:
            text = (
                f"{each.number:,} steps in queue {queue} wait for a worker, the oldest for {each.oldest_seconds:.0f} s."
            )
            found.append((text, "#/workers"))
    if metrics.parked:
        found.append((f"{metrics.parked:,} steps are parked: no worker has their code.", "#/failures"))
    if memory.limit and memory.used > MEMORY_SHARE * memory.limit:
        found.append((f"Redis uses {memory.used / memory.limit:.0%} of its memory limit.", "#/"))
    return [{"text": text, "href": href} for text, href in found]


def overview_shape(
    metrics: Metrics, workers: Sequence[SeenWorker], ended: Ended, memory: Memory, waiting: int | None
) -> dict[str, Any]:
    """Figures of the overview.

    Args:
        metrics: Metrics of the deployment.
        workers: The registered workers.
        ended: Runs that ended recently.
        memory: Memory of Redis.
        waiting: Running runs that wait for an event; None if there are too many to count.
    """
    slowest = sorted(metrics.steps.items(), key=lambda each: -quantile(each[1], 0.95))
    return {
        "now": ended.now,
        "runs": dict(metrics.runs),
        "waiting": waiting,
        "queued": metrics.waiting_for_place,
        "parked": metrics.parked,
        "ended": {"since_at": ended.since_at, "part_seconds": PART_SECONDS, "counts": ended.counts},
        "steps": [
            {"workflow": workflow, "step": step, "count": of.count}
            | {"median_ms": quantile(of, 0.5), "p95_ms": quantile(of, 0.95), "total_ms": of.total_ms}
            for (workflow, step), of in slowest[:STEPS]
        ],
        "queues": queues_shape(metrics),
        "workers": {"live": sum(each.is_live for each in workers), "lost": sum(not each.is_live for each in workers)},
        "memory": {"used": memory.used, "limit": memory.limit},
        "counters": dict(metrics.counters),
        "sweep_lag_seconds": metrics.sweep_lag_seconds,
    }


def queues_shape(metrics: Metrics, paused: Mapping[str, int | None] | None = None) -> list[dict[str, Any]]:
    """Each queue: how long its steps waited, and what waits now.

    Args:
        metrics: Metrics of the deployment.
        paused: Further queues -> since when they are paused, None if they are not.
    """
    since = paused or {}
    names = dict.fromkeys([*metrics.waits, *metrics.unclaimed, *since])
    rows = []
    for name in sorted(names):
        waits, now = metrics.waits.get(name), metrics.unclaimed.get(name)
        rows.append(
            {
                "name": name,
                "unclaimed": now.number if now else 0,
                "oldest_seconds": now.oldest_seconds if now else 0.0,
                "median_ms": quantile(waits, 0.5) if waits else 0,
                "p95_ms": quantile(waits, 0.95) if waits else 0,
                "paused_since": since.get(name),
            }
        )
    return rows


def limits_shape(limits: Iterable[LimitUse], routes: Mapping[str, str]) -> list[dict[str, Any]]:
    """The limited workflows, with how many of their runs execute and wait."""
    return [asdict(each) | {"route": routes.get(each.workflow)} for each in limits]


def workers_shape(workers: Iterable[SeenWorker], at_work: Mapping[str, int]) -> list[dict[str, Any]]:
    """The workers, with how many steps each executes right now."""
    return [
        {
            "name": each.name,
            "host": each.host,
            "pid": each.pid,
            "pool": each.pool,
            "workflows": list(each.workflows),
            "queues": list(each.queues),
            "paused": list(each.paused),
            "silent_seconds": each.silent_seconds,
            "is_live": each.is_live,
            "detours": list(each.detours),
            "library": each.library,
            "at_work": at_work.get(each.name, 0),
        }
        for each in workers
    ]


def failures_shape(dead: Iterable[DeadRun], routes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Failed runs in groups of the same workflow, step and kind of error, the latest first."""
    groups: dict[tuple[str, str, str], list[DeadRun]] = {}
    for each in dead:
        groups.setdefault((each.workflow, each.step, each.error.partition("(")[0]), []).append(each)
    return [
        {
            "workflow": workflow,
            "route": routes.get(workflow),
            "step": step,
            "kind": kind,
            "reason": some[0].reason,
            "error": some[0].error[:_ERROR_CHARACTERS],
            "last_at": some[0].failed_at,
            "run_ids": [each.run_id for each in some],
        }
        for (workflow, step, kind), some in groups.items()
    ]


def parked_shape(parked: Iterable[ParkedWork], routes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Parked work in groups of the same workflow and step, longest parked first."""
    groups: dict[tuple[str, str], list[ParkedWork]] = {}
    for each in parked:
        groups.setdefault((each.workflow, each.step), []).append(each)
    return [
        {
            "workflow": workflow,
            "route": routes.get(workflow),
            "step": step,
            "since_at": some[0].parked_at,
            "run_ids": list(dict.fromkeys(each.run_id for each in some)),
        }
        for (workflow, step), some in groups.items()
    ]
