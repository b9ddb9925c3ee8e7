"""SIGSTOP: a process that was declared dead resumes where it stopped. Everything it does is refused."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.chaos.concluding import POOLS, conclude
from support.chaos.deployment import DeployChaos, continue_group, stop_group
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held, Limited
from support.eventually import eventually


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_worker_that_comes_back_after_its_lease_commits_nothing(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, pool: str
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool=pool, concurrency=POOLS[pool])
    load = Load(deployment, seed)
    load.start(20)
    held = load.start_one(Held, 1, 5.0)
    zombie = deployment.worker_of(deployment.await_effects("held", run_id=held)[-1]["pid"])
    stopped_at = time.monotonic()
    stop_group(zombie)
    again = deployment.await_effects("held", 2, run_id=held)[-1]
    eventually(lambda: load.handler(held).is_done(), "the other worker has finished the step")
    continue_group(zombie)
    conclude(
        report, f"F4 worker paused, {pool}", load, seed=seed, recovery_seconds=[again["at"] - stopped_at], seconds=50
    )
    eventually(lambda: "declared dead" in zombie.log() or "was refused" in zombie.log(), "the zombie notices")


@pytest.mark.full_matrix
def test_a_child_that_hangs_beyond_its_steps_time_limit_is_replaced(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool="prefork", concurrency=2)
    load = Load(deployment, seed)
    load.start(20)
    limited = load.start_one(Limited, 1, 0.3)
    stuck = deployment.await_effects("limited", run_id=limited)[-1]["pid"]
    stopped_at = time.monotonic()
    os.kill(stuck, signal.SIGSTOP)
    again = deployment.await_effects("limited", 2, run_id=limited)[-1]
    assert again["pid"] != stuck
    eventually(lambda: load.handler(limited).is_done(), "another process has finished the step")
    os.kill(stuck, signal.SIGCONT)
    conclude(report, "F5 pool child hangs", load, seed=seed, recovery_seconds=[again["at"] - stopped_at])


@pytest.mark.full_matrix
def test_sweeps_that_are_killed_or_paused_in_their_middle_are_carried_on_by_others(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    arms = f"look.after=kill@#{20 + seed}*2;wake.after=kill@#3*1;fence.after=kill@#2*1"
    for name in ("one", "two"):
        deployment.worker(name, pool="asyncio", concurrency=30, failpoints=arms)
    third = deployment.worker("three", pool="asyncio", concurrency=30)
    for worker in deployment.workers:
        worker.wait_ready()
    load = Load(deployment, seed)
    load.start(40, seconds=0.2)
    stop_group(third)
    eventually(lambda: len(deployment.killed_by_failpoints()) >= 2, "both armed sweeps are dead", seconds=50)
    for worker in list(deployment.workers):
        if worker is not third:
            deployment.dismiss(worker)
    load.start(20, seconds=0.2)
    continue_group(third)
    died = deployment.killed_by_failpoints()
    conclude(report, "F9 sweeps killed and paused", load, seed=seed, deaths=dict.fromkeys(died, time.monotonic()))
