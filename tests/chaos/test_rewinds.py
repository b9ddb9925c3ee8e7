"""Runs are forked and rewound while they execute, concurrently, and while their history expires."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import pytest

from support.chaos.concluding import conclude, start_workers
from support.chaos.deployment import DeployChaos, continue_group, stop_group
from support.chaos.flows import Caught, Counts, Falters, Family, Gathers, Links, Nested, Pairs, Spread, Tells
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.eventually import eventually
from umbel import HistoryUnavailable, WorkflowHandler
from umbel.errors import RunNotFound

#: Kinds of runs without questions and without sessions, whose runs cannot be rewound.
KINDS = [Links, Spread, Nested, Pairs, Gathers, Falters, Caught, Counts, Tells, Family]


def _put_back(handler: WorkflowHandler, chosen: random.Random) -> bool:
    """Rewind a run to a random point at which it had work; return whether it was done."""
    point = chosen.choice(list(handler.history()))
    with suppress(HistoryUnavailable):  # it had no work left at that point
        handler.rewind(point, stop_running=True)
        return True
    return False


@pytest.mark.timeout(180)
@pytest.mark.parametrize("runs", [20, pytest.param(90, marks=pytest.mark.full_matrix)])
def test_runs_that_two_put_back_at_once_while_they_are_executed_lose_and_double_nothing(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, runs: int
) -> None:
    deployment = deploy_chaos(seed=seed)
    start_workers(deployment)
    load = Load(deployment, seed)
    done: list[bool] = []

    def put_back(run_id: str, number: int) -> None:
        chosen = random.Random(f"{seed} {run_id} {number}")
        time.sleep(chosen.uniform(0, 0.2))  # the race itself: there is no other way to hit an arbitrary moment
        done.append(_put_back(load.handler(run_id), chosen))

    for first in range(0, runs, 10):
        batch = load.start(10, KINDS, seconds=0.05)
        threads = [threading.Thread(target=put_back, args=(run_id, number)) for run_id in batch for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for run_id in batch:
            load.seen[run_id].commits = None
        load.await_all()
        assert len(load.seen) == first + 10
    conclude(report, "F26 two rewinds at once", load, seed=seed)
    assert len(done) == 2 * runs
    assert any(done)


@pytest.mark.full_matrix
def test_what_a_stopped_worker_commits_after_its_runs_were_put_back_is_refused(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    [zombie] = deployment.workers_at("zombie", pool="asyncio", concurrency=30)
    load = Load(deployment, seed)
    run_ids = [load.start_one(Links, 3, 0.5) for _ in range(10)]
    eventually(lambda: len(deployment.effects("odd")) >= len(run_ids), "all steps are executing")
    stop_group(zombie)
    stale = deployment.counter("stale_commits")
    for run_id in run_ids:
        load.handler(run_id).rewind(1, stop_running=True)
        load.seen[run_id].commits = None
    continue_group(zombie)
    eventually(lambda: deployment.counter("stale_commits") > stale, "a late outcome was refused")
    conclude(report, "F27 rewind against late commits", load, seed=seed)


def test_a_fork_of_a_run_whose_retention_ends_meanwhile_is_whole_or_is_not(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", pool="asyncio", concurrency=30)
    load, chosen = Load(deployment, seed), random.Random(seed)
    store, came = deployment.store, {"whole": 0, "refused": 0}
    for number in range(12):
        origin = load.start_one(Spread, 6)
        handler = load.handler(origin)
        assert handler.result(30) == load.seen[origin].expected
        expected = load.seen[origin]
        load.forget(origin)
        point = next(point.seq for point in handler.history(step="quick", kinds=["commit"]))
        keys = list(store.client.scan_iter(match=f"*{origin}*", count=1000))
        pipe = store.client.pipeline(transaction=False)
        for key in keys:
            pipe.pexpire(key, chosen.randint(1, 40) if number else 40_000)
        pipe.execute()
        if number == 1:  # the sweep may write to a journal that has expired before its run, and so keep it for long
            eventually(lambda keys=keys: not store.client.delete(*keys), "all of it is gone")
        fork_id = f"fork{number}"
        try:
            fork = handler.fork(point, run_id=fork_id)
        except (RunNotFound, HistoryUnavailable):
            came["refused"] += 1
            assert not list(store.client.scan_iter(match=f"*:run:{fork_id}*", count=1000))
            continue
        came["whole"] += 1
        assert fork.result(30) == expected.expected
        assert fork.verify().holds
    assert min(came.values()) > 0, came
    report.add("F28 retention ends under a fork", seed=seed, runs=24)
