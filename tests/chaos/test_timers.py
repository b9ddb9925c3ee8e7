"""Delays and time limits while processes die: a timer fires once, in a process that is alive when it is due."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from support.chaos.concluding import conclude
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held, Limited, Patient
from support.eventually import eventually
from umbel.errors import WorkflowTimeoutError


def _kill_all(deployment: ChaosDeployment) -> None:
    for worker in list(deployment.workers):
        worker.kill_group()
        deployment.dismiss(worker)


def _now_at_redis(deployment: ChaosDeployment) -> float:
    seconds, micros = deployment.store.client.time()
    return float(seconds) + micros / 1e6


@pytest.mark.full_matrix
def test_retries_that_back_off_are_as_many_and_as_late_as_they_should_when_workers_die_in_between(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", pool="asyncio", concurrency=30)
    load = Load(deployment, seed)
    runs = [load.start_one(Patient, 1) for _ in range(5)]
    eventually(lambda: len(deployment.effects("falter")) == 5, "all have failed once")
    eventually(lambda: all(_waits(deployment, run_id) for run_id in runs), "all wait for their second try")
    _kill_all(deployment)
    deployment.workers_at("two", pool="asyncio", concurrency=30)
    conclude(report, "F26 worker killed in a back-off", load, seed=seed)
    for run_id in runs:
        tries = deployment.effects("falter", run_id)
        assert [line["failures"] for line in tries] == [0, 1, 2]
        assert all(later["at"] - earlier["at"] >= 0.99 for earlier, later in pairwise(tries))


def _waits(deployment: ChaosDeployment, run_id: str) -> bool:
    store = deployment.store
    timers = store.client.zrange(store.locate(run_id)["timers"], 0, -1)
    return any(run_id.encode() in member for member in timers)


@pytest.mark.full_matrix
def test_a_timer_due_while_no_worker_runs_fires_once(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", pool="asyncio", concurrency=30)
    load = Load(deployment, seed)
    runs = [load.start_one(Patient, 1) for _ in range(20)]
    eventually(lambda: all(_waits(deployment, run_id) for run_id in runs), "all wait for their second try")
    _kill_all(deployment)
    due = _now_at_redis(deployment) + 1.0
    eventually(lambda: _now_at_redis(deployment) > due, "all timers are due")
    began = time.monotonic()
    deployment.workers_at("two", "three", pool="asyncio", concurrency=30)
    conclude(report, "F28 timer due with nobody there", load, seed=seed)
    for run_id in runs:
        tries = deployment.effects("falter", run_id)
        assert [line["failures"] for line in tries] == [0, 1, 2]
        assert tries[1]["at"] > began


@pytest.mark.full_matrix
def test_time_limits_that_race_with_commits_have_one_winner(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    for pool, concurrency in (("asyncio", 30), ("prefork", 2)):
        deployment.worker(pool, pool=pool, concurrency=concurrency)
    for worker in deployment.workers:
        worker.wait_ready()
    load = Load(deployment, seed, excused=WorkflowTimeoutError)
    timed = [load.start_one(Held, 1, load.random.uniform(0.0, 0.4), timeout=0.4) for _ in range(60)]
    limited = [load.start_one(Limited, 1, load.random.uniform(0.97, 1.0)) for _ in range(6)]
    conclude(report, "F27 time limit races with commit", load, seed=seed)
    assert {load.handler(run_id).status() for run_id in timed} == {"completed", "timed_out"}
    assert {load.handler(run_id).status() for run_id in limited} == {"completed"}
