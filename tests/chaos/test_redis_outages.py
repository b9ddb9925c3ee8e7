"""Redis is killed, power-cut or emptied: runs that it still has continue in the same workers, in a consistent state."""

from __future__ import annotations

import random
import time

import pytest

from support.chaos.concluding import ONE_SEED, conclude, next_progress, start_workers
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.flows import Links
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held
from support.eventually import eventually
from support.faults.redis_under_test import RedisUnderTest
from umbel import RunNotFound


def await_progress(deployment: ChaosDeployment, steps: int) -> None:
    """Wait until this many more steps have begun."""
    before = len(deployment.effects())
    eventually(lambda: len(deployment.effects()) >= before + steps, f"{steps} more steps have begun")


@pytest.mark.full_matrix
def test_a_redis_killed_again_and_again_loses_nothing_and_work_continues_soon_after_its_return(
    deploy_chaos: DeployChaos, redis_server: RedisUnderTest, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    start_workers(deployment)
    load = Load(deployment, seed)
    chosen = random.Random(seed)
    recoveries = []
    for _ in range(5):
        load.start(15, seconds=0.1)
        load.start_one(Links, 8, seconds=0.5)
        await_progress(deployment, chosen.randint(5, 60))
        redis_server.restart()
        at = time.monotonic()
        load.start_one(Held, 1)
        await_progress(deployment, 10)
        recoveries.append(next_progress(deployment, at))
    conclude(report, "F10 Redis killed, restarted", load, seed=seed, recovery_seconds=recoveries)
    assert max(recoveries) < 5


@pytest.mark.full_matrix
def test_a_power_cut_leaves_a_consistent_earlier_point_from_which_runs_continue(
    deploy_chaos: DeployChaos, redis_server: RedisUnderTest, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    start_workers(deployment)
    load = Load(deployment, seed)
    load.start(20, seconds=0.1)
    certain = list(load.seen)
    await_progress(deployment, 10)
    kept = redis_server.log_file.stat().st_size  # on disk; what follows is not
    load.start(20, seconds=0.1)
    await_progress(deployment, 60)
    # The log ends anywhere, even in the middle of a transaction.
    written = redis_server.log_file.stat().st_size
    redis_server.power_cut(kept + round((written - kept) * random.Random(seed).random()))
    redis_server.start()
    at = time.monotonic()
    gone = [run_id for run_id in load.seen if not exists(deployment, run_id)]
    assert not set(gone) & set(certain)
    for run_id in gone:
        load.forget(run_id)
    load.await_all()
    recovery = next_progress(deployment, at)
    conclude(report, "F11 power cut", load, seed=seed, recovery_seconds=[recovery], is_set_back=True)


def exists(deployment: ChaosDeployment, run_id: str) -> bool:
    """Return whether Redis knows the run."""
    try:
        deployment.store.run(run_id)
    except RunNotFound:
        return False
    return True


@pytest.mark.full_matrix
def test_with_appendfsync_always_nothing_acknowledged_is_lost_in_a_power_cut(
    deploy_chaos: DeployChaos, redis_server: RedisUnderTest, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED)
    deployment.store.client.config_set("appendfsync", "always")
    start_workers(deployment)
    load = Load(deployment, ONE_SEED)
    load.start(20, seconds=0.05)
    # The last start is acknowledged, so the log that is on disk now contains it and everything before it.
    kept = redis_server.log_file.stat().st_size
    await_progress(deployment, 5)
    redis_server.power_cut(kept)
    redis_server.start()
    assert [run_id for run_id in load.seen if not exists(deployment, run_id)] == []
    conclude(report, "F11 power cut, fsync always", load, seed=ONE_SEED, is_set_back=True)


@pytest.mark.full_matrix
@pytest.mark.parametrize("how", ["flushed", "restarted empty"])
def test_an_emptied_redis_is_reported_clearly_and_serves_new_runs_in_the_same_workers(
    deploy_chaos: DeployChaos, redis_server: RedisUnderTest, report: RecoveryReport, how: str
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED)
    start_workers(deployment)
    lost = Load(deployment, ONE_SEED)
    lost.start(20, seconds=0.1)
    held = lost.start_one(Held, 1, seconds=1.0)
    deployment.await_effects("held", run_id=held)
    if how == "flushed":
        deployment.store.client.flushall()
    else:
        redis_server.lose_everything()
        redis_server.start()
    at = time.monotonic()
    for run_id in lost.seen:
        with pytest.raises(RunNotFound, match=run_id):
            lost.handler(run_id).result(30)
    load = Load(deployment, ONE_SEED)
    load.start(20)
    load.await_all()
    conclude(report, f"F12 Redis {how}", load, seed=ONE_SEED, recovery_seconds=[next_progress(deployment, at)])
