"""SIGKILL to pool children, main processes, whole workers and all workers: this costs time and nothing else."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.chaos.concluding import POOLS, conclude
from support.chaos.deployment import DeployChaos
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held
from support.eventually import eventually
from support.processes.driving import descendants, is_alive


def test_a_killed_pool_child_costs_its_step_a_moment(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool="prefork", concurrency=2)
    load = Load(deployment, seed)
    load.start(20)
    deaths = {}
    for _ in range(4):
        held = load.start_one(Held, 1, 10.0)
        pid = deployment.await_effects("held", run_id=held)[-1]["pid"]
        deaths[pid] = time.monotonic()
        os.kill(pid, signal.SIGKILL)
    conclude(report, "F1 pool child killed", load, seed=seed, deaths=deaths)
    assert deployment.counter("losses") >= 4


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
@pytest.mark.parametrize("how", ["main", pytest.param("group", marks=pytest.mark.full_matrix)])
def test_a_killed_worker_costs_its_steps_a_lease(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, pool: str, how: str
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool=pool, concurrency=POOLS[pool])
    load = Load(deployment, seed)
    load.start(30)
    held = load.start_one(Held, 1, 10.0)
    victim = deployment.worker_of(deployment.await_effects("held", run_id=held)[-1]["pid"])
    processes = descendants(victim.pid) | {victim.pid}
    deaths = dict.fromkeys(processes, time.monotonic())
    if how == "main":
        victim.kill_main()
        eventually(lambda: not any(map(is_alive, processes)), "the children follow their main process")
    else:
        victim.kill_group()
    deployment.dismiss(victim)
    conclude(report, f"F2 worker killed, {pool}", load, seed=seed, deaths=deaths)
    assert deployment.counter("losses") >= 1


@pytest.mark.full_matrix
def test_a_fleet_that_is_killed_as_a_whole_resumes_when_it_is_back(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    load = Load(deployment, seed)
    deaths: dict[int, float] = {}
    for life in range(3):
        workers = [deployment.worker(f"{pool}{life}", pool=pool, concurrency=POOLS[pool]) for pool in POOLS]
        for worker in workers:
            worker.wait_ready()
        since = len(deployment.effects())
        load.start(20, seconds=0.2)
        eventually(lambda n=since: len(deployment.effects()) > n + 40, "the fleet is at work")
        for worker in workers:
            deaths |= dict.fromkeys(descendants(worker.pid) | {worker.pid}, time.monotonic())
            worker.kill_group()
            deployment.dismiss(worker)
    came_back_at = time.monotonic()
    deployment.workers_at("last", pool="asyncio", concurrency=50)
    back = dict.fromkeys(deaths, came_back_at)  # before that, there was no worker to recover anything
    conclude(report, "F3 fleet killed, and back", load, seed=seed, deaths=back)
