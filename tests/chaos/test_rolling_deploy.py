"""Workers are replaced one by one, by workers with other code, with the same name, or with a wrong clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from support.chaos.concluding import ONE_SEED, POOLS, conclude, nothing_is_lost_or_repeated, start_workers
from support.chaos.deployment import TARGETS, ChaosDeployment, DeployChaos
from support.chaos.flows import KINDS, Asks, Falters
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held
from support.eventually import eventually
from support.flows import shop_after
from support.processes.driving import assert_committed_once

#: Kinds of runs whose steps begin only once each.
ONCE = tuple(kind for kind in KINDS if kind not in (Falters, Asks))
#: No lease expires by itself.
PATIENT = {"lease_seconds": 10.0, "heartbeat_seconds": 0.5, "sweep_seconds": 0.2, "redispatch_seconds": 1.0}


@pytest.mark.full_matrix
@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_workers_replaced_one_after_the_other_under_load_lose_and_repeat_no_step(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, pool: str
) -> None:
    deployment = deploy_chaos(seed=seed, **PATIENT, drain_seconds=20.0)
    deployment.workers_at("first-1", "first-2", "first-3", pool=pool, concurrency=POOLS[pool])
    load = Load(deployment, seed)
    for number, leaving in enumerate(list(deployment.workers)):
        load.start(2 * len(ONCE), ONCE, seconds=0.2)
        load.start_one(Held, 1, seconds=2.0)
        before = len(deployment.effects())
        eventually(lambda before=before: len(deployment.effects()) > before + 20, "the workers are at it")
        leaving.terminate()
        deployment.worker(f"second-{number}", pool=pool, concurrency=POOLS[pool]).wait_ready()
        assert leaving.process.wait(40) == 0
        deployment.dismiss(leaving)
    conclude(report, "F30 rolling deploy", load, seed=seed)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
@pytest.mark.parametrize("pool", ["solo", "asyncio"])
def test_in_a_mixed_fleet_work_that_the_old_code_lacks_continues_soon_and_never_fails(
    deploy_chaos: DeployChaos, report: RecoveryReport, pool: str
) -> None:
    deployment = deploy_chaos(redispatch_seconds=1.0)
    deployment.worker("old-1", "support.flows.shop_before", pool=pool).wait_ready()
    deployment.worker("old-2", "support.flows.shop_before", pool=pool).wait_ready()
    deployment.worker("new", "support.flows.shop_after", pool=pool, concurrency=50).wait_ready()
    at = time.monotonic()
    kinds = {shop_after.Parcel: "wrapped", shop_after.Refund: "paid back", shop_after.Bundle: "tied"}
    handlers = [(deployment.start(kind), result) for _ in range(10) for kind, result in kinds.items()]
    for handler, result in handlers:
        assert handler.result(50) == result
    seconds = time.monotonic() - at
    bounced = sum(deployment.journal_kinds(handler.run_id).count("parked") for handler, _ in handlers)
    if pool == "asyncio":  # it has room for everything: parked work is taken up without the queue, and not parked again
        assert bounced <= len(handlers)
    for handler, _ in handlers:
        found = deployment.executions(handler.run_id)
        assert_committed_once(found)
        assert {each.outcome for each in found} == {"done"}
        assert {each.attempt for each in found} == {1}
    assert deployment.counter("losses") == 0
    report.add("F30 mixed fleet", seed=1, runs=len(handlers), executions=bounced, recovery_seconds=[seconds])
    assert [worker.process.poll() for worker in deployment.workers] == [None] * 3


def namesake(deployment: ChaosDeployment, file: str) -> None:
    """Start a worker named `same`."""
    options = ["--name", "same", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO"]
    deployment.launch(file, "umbel.workers.cli", "worker", *TARGETS, *options).wait_ready()


@pytest.mark.full_matrix
def test_two_workers_of_the_same_name_do_not_declare_each_other_dead(
    deploy_chaos: DeployChaos, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED, **PATIENT)
    namesake(deployment, "same-1")
    namesake(deployment, "same-2")
    load = Load(deployment, ONE_SEED)
    held = [load.start_one(Held, 1, seconds=3.0) for _ in range(4)]
    for run_id in held:
        deployment.await_effects("held", run_id=run_id)
    at = {deployment.worker_of(line["pid"]).name for line in deployment.effects("held")}
    assert at == {"same-1", "same-2"}
    namesake(deployment, "same-3")  # a worker of that name starts while the others are executing
    leaving = deployment.workers[-1]
    leaving.kill_group()
    deployment.dismiss(leaving)
    conclude(report, "F30 workers of one name", load, seed=ONE_SEED)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
@pytest.mark.parametrize(("pool", "skew_seconds"), [("prefork", 3600), ("asyncio", -3600)])
def test_a_worker_whose_clock_is_an_hour_wrong_changes_nothing(
    deploy_chaos: DeployChaos, report: RecoveryReport, pool: str, skew_seconds: int
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED, **PATIENT)
    path = os.pathsep.join([str(Path(__file__).parent / "skewed"), deployment.environment["PYTHONPATH"]])
    skewed = {"PYTHONPATH": path, "SKEW_SECONDS": str(skew_seconds)}
    deployment.worker("skewed", pool=pool, concurrency=POOLS[pool], more=skewed).wait_ready()
    start_workers(deployment, pool)
    load = Load(deployment, ONE_SEED)
    load.start(3 * len(KINDS), seconds=0.1)
    conclude(report, "F19 clock an hour wrong", load, seed=ONE_SEED)
    assert deployment.counter("losses") == 0
    assert {deployment.worker_of(line["pid"]).name for line in deployment.effects()} == {"skewed", pool}
