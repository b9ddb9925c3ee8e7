"""Concurrent attempts at what may happen only once: cancelling and completing a run, completing a fan-in."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from support.chaos.concluding import conclude
from support.chaos.deployment import DeployChaos
from support.chaos.flows import KINDS, Asks, Pairs
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Crowd
from support.faults.meddler import Meddler
from umbel import WorkflowCancelledByUser


@pytest.mark.timeout(240)
@pytest.mark.parametrize("runs", [100, pytest.param(340, marks=pytest.mark.full_matrix)])
def test_a_run_that_is_cancelled_as_it_ends_ends_once(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, runs: int
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool="asyncio", concurrency=50)
    load = Load(deployment, seed, excused=WorkflowCancelledByUser)
    chosen = random.Random(seed)
    kinds = [kind for kind in KINDS if kind is not Asks]
    lasted: list[float] = [0.05]

    def cancel(run_id: str, after: float) -> None:
        time.sleep(after)  # the race itself: there is no other way to hit an arbitrary moment
        load.handler(run_id).cancel()

    for first in range(0, runs, 20):
        threads, batch = [], []
        for number in range(20):
            run_id = load.start_some(Pairs if number % 2 else kinds[number // 2 % len(kinds)], seconds=0)
            batch.append(run_id)
            thread = threading.Thread(target=cancel, args=(run_id, chosen.uniform(0, 2 * lasted[-1])))
            thread.start()
            threads.append(thread)
        began = time.monotonic()
        for thread in threads:
            thread.join()
        load.await_all(50)
        lasted.append(min(0.3, time.monotonic() - began))
        assert len(load.seen) == first + 20
    ends = Counter(load.handler(run_id).status() for run_id in load.seen)
    conclude(report, "F24 cancel races with the end", load, seed=seed)
    assert set(ends) == {"completed", "cancelled"}


@pytest.mark.full_matrix
@pytest.mark.timeout(180)
def test_a_thousand_events_from_sixteen_processes_complete_a_fan_in_once(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool="prefork", concurrency=8)
    load = Load(deployment, seed)
    meddler = Meddler(deployment.settings, random.Random(seed))
    with meddler.at_work():
        load.start_one(Crowd, 1000)
        load.await_all(100)
    meddler.close()
    conclude(report, "F25 join race, messages meddled with", load, seed=seed, seconds=100)
    assert len({line["pid"] for line in deployment.effects("work")}) == 16
