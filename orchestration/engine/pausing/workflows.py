"""Workflows that are paused: no worker begins steps of their runs.

    pause    the workflow is recorded as paused; workers apply that with their next sweeps
    hold     a message of it arrives: the work is recorded as held; it stays unclaimed, with its next look an hour later
    resume   the workflow is recorded as resumed; workers apply that, and redispatch what is held

Nothing is claimed meanwhile: paused work costs nothing, and a claim need not check whether its workflow is paused. Held
work is unclaimed work: if a worker that learns of the resumption late still holds some, the sweep finds it within that
hour.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...model.errors import StoreUnavailable
from ...store.replies import pairs
from ...store.verbs import Store
from ..protocol import Engine

logger = logging.getLogger("umbel.sweep")

#: Held work is redispatched after this time even if nothing resumes it.
HELD_SECONDS = 3600.0

#: How long after a workflow was resumed workers look for work that others still hold.
RESUMED_SECONDS = 60.0

#: Maximum number of held work items redispatched per shard and pass.
BATCH = 200


@dataclass(frozen=True, slots=True)
class Pauses:
    """What is paused now, and since when, in Redis ms.

    Attributes:
        queues: By name.
        workflows: By the name that was passed: the full name, or its last part.
        resumed: Workflows that were paused until recently, and when that ended.
    """

    queues: Mapping[str, int]
    workflows: Mapping[str, int]
    resumed: Mapping[str, int]


async def pauses(store: Store) -> Pauses:
    """What is paused. Reads only."""
    names = ("paused_queues", "paused_workflows", "resumed_workflows")
    found = await store.batch("look for what is paused", *(("HGETALL", _key(store, name)) for name in names))
    return Pauses(*({name.decode(): int(at) for name, at in pairs(each).items()} for each in found))


def covered_by(workflow: str, paused: Collection[str]) -> str | None:
    """The name under which a workflow is paused; the last part of its name suffices."""
    return next((name for name in (workflow, workflow.rpartition(".")[2]) if name in paused), None)


async def pause_workflow(store: Store, workflow: str) -> None:
    """Stop all workers from beginning steps of a workflow.

    *Promise:* recorded in Redis, so it outlives all processes and holds for workers that start later. Running workers
    apply it with one of their next sweeps. Steps that are already executing continue, and so do timeouts.
    """
    now = await store.command("ask for the time", "TIME")
    await store.command("pause a workflow", "HDEL", _key(store, "resumed_workflows"), workflow)
    await store.command("pause a workflow", "HSETNX", _key(store, "paused_workflows"), workflow, int(now[0]) * 1000)


async def resume_workflow(store: Store, workflow: str) -> bool:
    """Let workers begin a workflow's steps again; False if it was not paused under this name.

    *Promise:* no held work is lost, even if this process dies: workers dispatch it with their next sweeps.
    """
    paused = _key(store, "paused_workflows")
    if not await store.command("resume a workflow", "HEXISTS", paused, workflow):
        return False
    now = await store.command("ask for the time", "TIME")
    resumed = _key(store, "resumed_workflows")
    await store.command(
        "resume a workflow", "HSET", resumed, workflow, int(now[0]) * 1000
    )  # first, in case we die here
    return bool(await store.command("resume a workflow", "HDEL", paused, workflow))


async def hold(store: Store, run_id: str, work_id: str, paused: str) -> bool:
    """Postpone dispatched work of a paused workflow; False if it can no longer be claimed.

    Args:
        store: The runs.
        run_id: The run.
        work_id: The work item that a message named.
        paused: What `covered_by` returned.
    """
    reply = await store.verb("hold", run_id, {"held": f"held:{paused}"}, w=work_id, put_off=round(HELD_SECONDS * 1000))
    return bool(reply[0] == b"held")


async def held_steps(store: Store, workflow: str) -> int:
    """Approximately how many steps are held for a workflow: those of runs that have ended are counted, too."""
    shards = range(store.settings.shards)
    return sum(await store.batch("count what is held", *(("ZCARD", _held(store, shard, workflow)) for shard in shards)))


async def release(engine: Engine, resumed: Mapping[str, int], now: int) -> bool:
    """Redispatch what is held for workflows that were resumed; returns whether there is more.

    *Promise:* any number of processes may do this, and be interrupted: held work is forgotten only after its dispatch.

    Args:
        engine: The deployment's.
        resumed: `Pauses.resumed`.
        now: Redis time in ms.
    """
    store, is_more = engine.store, False
    for workflow, at in resumed.items():
        keys = [_held(store, shard, workflow) for shard in range(store.settings.shards)]
        pages = await store.reached("look for what is held", *(("ZRANGE", key, 0, BATCH - 1) for key in keys))
        for key, page in zip(keys, pages, strict=True):
            if page:
                await _dispatch(engine, [member.decode() for member in page])
                await store.command("forget what was held", "ZREM", key, *page)
        is_more = is_more or any(page is not None and len(page) == BATCH for page in pages)
        if now - at > RESUMED_SECONDS * 1000 and all(page == [] for page in pages):
            await store.command("forget a pause", "HDEL", _key(store, "resumed_workflows"), workflow)
    return is_more


async def _dispatch(engine: Engine, held: list[str]) -> None:
    by_run: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for member in held:
        run_id, work_id, line = member.split("|", 2)
        by_run[run_id].append((work_id, line))
    for run_id, items in by_run.items():
        try:
            applied = await engine.leases.redispatch(run_id, items)
            await engine.dispatch(run_id, applied.dispatches)
        except StoreUnavailable:
            raise
        except Exception:  # a damaged run must not hold up the others; it is unclaimed, which the sweep reports
            logger.exception("held steps of run %r are left to the sweep", run_id, extra={"action": "sweep_error"})


def _held(store: Store, shard: int, workflow: str) -> str:
    return store.keys.in_shard(shard, f"held:{workflow}")


def _key(store: Store, name: str) -> str:
    return store.keys.in_shard(0, name)
