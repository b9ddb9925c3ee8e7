"""SIGKILL to workers while parents wait for child runs: each child starts once, and its end is counted once."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from support.chaos.concluding import POOLS, conclude
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.invariants import violations
from support.chaos.mixed_load import Load
from support.chaos.observed import RunSeen, see_runs
from support.chaos.recovery_report import RecoveryReport
from support.chaos.wider_flows import Family, Member
from support.eventually import eventually
from support.processes.driving import descendants


def _members(deployment: ChaosDeployment) -> list[RunSeen]:
    """Return the existing child runs, from the indexes of runs."""
    store, found = deployment.store, []
    for shard in range(store.settings.shards):
        for status in ("running", "completed", "failed", "cancelled", "timed_out"):
            for raw in store.client.zrange(store.keys.in_shard(shard, f"runs:{status}"), 0, -1):
                workflow = store.client.hget(store.locate(raw.decode())["run"], "workflow")
                if workflow == f"{Member.__module__}.{Member.__qualname__}".encode():
                    found.append(RunSeen(raw.decode(), "member", commits=Counter(begin=1, work=1)))
    return found


def _kill_one_after_the_other(load: Load, parents: int, children: int, kills: int) -> dict[int, float]:
    """Kill the workers in turn while children execute, and replace each by another one of its pool.

    The parents are started in as many parts, so that the fleet has work until the last kill.
    """
    deployment, deaths = load.deployment, dict[int, float]()
    for life in range(kills):
        for _ in range(life, parents, kills):
            load.start_one(Family, children, 0.05)
        since = len(deployment.effects())
        eventually(lambda n=since: len(deployment.effects()) > n + 20, "the fleet is at work")
        victim = deployment.workers[0]
        pool = "asyncio" if "asyncio" in victim.name else "prefork"
        deaths |= dict.fromkeys(descendants(victim.pid) | {victim.pid}, time.monotonic())
        victim.kill_group()
        deployment.dismiss(victim)
        deployment.worker(f"{pool}{life}", pool=pool, concurrency=POOLS[pool])
    return deaths


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("parents", "children", "kills"), [(10, 10, 3), pytest.param(200, 10, 12, marks=pytest.mark.full_matrix)]
)
def test_no_child_is_lost_or_doubled_when_workers_are_killed(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, parents: int, children: int, kills: int
) -> None:
    deployment = deploy_chaos(seed=seed)
    for pool in ("asyncio", "prefork", "asyncio"):
        deployment.worker(f"{pool}-{len(deployment.workers)}", pool=pool, concurrency=POOLS[pool]).wait_ready()
    load = Load(deployment, seed)
    deaths = _kill_one_after_the_other(load, parents, children, kills)
    conclude(report, "F16 parents of child runs, workers killed", load, seed=seed, deaths=deaths, seconds=200)

    members = see_runs(deployment, _members(deployment))
    assert len(members) == parents * children
    assert violations(members, None) == []
