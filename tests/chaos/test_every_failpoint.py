"""A process dies once before and once after every exchange: each script, publish, acknowledgement and write.

One process can die at many places: workers have all failpoints set, each fires once, and dead processes are replaced
until all have fired. The seeds of a full run divide the failpoints among them.
"""

from __future__ import annotations

import signal

import pytest

from support.chaos.concluding import POOLS, conclude
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.flows import KINDS, Talks
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Crowd, Few, Hangs, Held
from support.eventually import eventually
from support.faults.failpoint_places import marked
from support.programs.chaos_client import RUNS
from umbel.errors import WorkflowTimeoutError
from umbel.orchestration.store.scripts import names

#: Failpoints that workers pass under this load, grouped by what passes them.
OF_STEPS = [
    "claim",
    "commit",
    "flush",
    "log",
    "collect",
    "stage",
    "unstage",
    "state_lock",
    "state_write",
    "heartbeat",
    "begin",
    "leave",
    "give_back",
    "memo",
    "child_started",
    "child_ended",
    "settled",
    "cancel",
    "expire",
    "dispatch",
]
OF_MAIN = [
    "fence",
    "lose",
    "wake",
    "deadline",
    "redispatch",
    "retire",
    "pack",
    "checkpoint",
    "finish",
    "look",
    "trim",
    "announce",
    "advance",
    "deliver",
]
#: Only in workers whose pool is an event loop: a prefork pool takes one message at a time.
OF_LOOPS = ["push", "fetch"]
#: Passed rarely, or by clients; verbs that are not listed here lose their replies in `test_lost_replies`.
OF_CLIENTS = ["start", "send", "admit", "begin", "finish", "revive", "snapshot", "restore", "state_lock", "state_write"]
OF_CLIENTS += ["state_unlock", "state_renew", "state_at", "state_back", "purge", "dispatch", "open", "close"]
OF_CLIENTS += ["replay", "rewind"]
OF_OTHERS = ["look_later", "ack", "file", "acks", "quarantine", "goodbye"]


def test_every_failpoint_in_the_sources_is_covered() -> None:
    alone = {name for name, _ in marked()}
    listed = [*OF_STEPS, *OF_MAIN, *OF_LOOPS, *OF_OTHERS]
    assert sorted(listed) == sorted(set(listed))
    assert alone <= set(listed) <= alone | set(names())


def _places(pool: str, seed: int) -> list[str]:
    """Return this seed's third of the failpoints."""
    verbs = [*OF_STEPS, *OF_MAIN, *(OF_LOOPS if pool == "asyncio" else [])]
    if pool == "asyncio":
        verbs.remove("dispatch")  # an event loop sends them with push
    every = [f"{verb}.{moment}" for verb in verbs for moment in ("before", "after")]
    return every[(seed - 1) % 3 :: 3]


def _keep_up(deployment: ChaosDeployment, pool: str, arms: str) -> None:
    """Replace dead workers; fails if one ended without being killed."""
    killed = deployment.killed_by_failpoints()
    for worker in list(deployment.workers):
        if worker.process.poll() is not None:
            assert worker.pid in killed, f"{worker.name} ended by itself: {worker.log()[-2000:]}"
            deployment.dismiss(worker)
            deployment.worker(f"{worker.name}.", pool=pool, concurrency=POOLS[pool], failpoints=arms)


def _some_of_all(load: Load) -> None:
    load.start(len(KINDS))
    load.start_one(Crowd, 260)
    load.start_one(Hangs, 1)
    for _ in range(4):
        load.start_one(Few, 1)
    for _ in range(2):
        load.start_one(Talks, 1, 3.0)  # the second one waits long enough for the sweep to check it
    load.start_one(Held, 1, 30.0, timeout=0.3)
    load.answer()


@pytest.mark.full_matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_death_before_and_after_every_exchange_costs_no_run_anything_but_time(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, pool: str
) -> None:
    deployment = deploy_chaos(seed=seed, max_losses=50)
    places = _places(pool, seed)
    # Staged data is cleared only after a death in the middle of staging.
    arms = ";".join([*(f"{place}=kill@#1*1" for place in places), "stage.after=kill@1/4*6"])
    for name in ("one", "two", "three"):
        deployment.worker(name, pool=pool, concurrency=POOLS[pool], failpoints=arms)
    load = Load(deployment, seed, excused=WorkflowTimeoutError)

    def fired() -> set[str]:
        return {place for place, action in deployment.failpoints_fired() if action == "kill"}

    def all_have_fired() -> bool:
        _keep_up(deployment, pool, arms)
        if len(load.seen) - len(load.ended(load.seen)) < 30:
            _some_of_all(load)
        return fired() >= set(places)

    try:
        eventually(all_have_fired, "every place has killed once", seconds=120)
    except AssertionError:
        pytest.fail(f"never reached: {sorted(set(places) - fired())}; reached: {sorted(deployment.failpoints_hit())}")
    _keep_up(deployment, pool, arms)
    conclude(
        report,
        f"F7/F8 every place kills, {pool}",
        load,
        seed=seed,
        deaths=deployment.killed_by_failpoints(),
        seconds=90,
    )


@pytest.mark.parametrize("pool", ["prefork", pytest.param("asyncio", marks=pytest.mark.full_matrix)])
def test_connections_lost_before_and_after_every_script_repeat_no_outcome(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, pool: str
) -> None:
    deployment = deploy_chaos(seed=seed)
    scripts = [verb for verb in (*OF_STEPS, *OF_MAIN) if verb in names()]
    arms = ";".join(f"{verb}.*=raise@1/8" for verb in scripts)
    for name in ("one", "two"):
        deployment.worker(name, pool=pool, concurrency=POOLS[pool], failpoints=arms)
    load = Load(deployment, seed)
    load.start(3 * len(KINDS))
    conclude(report, f"F14 reply lost at failpoints, {pool}", load, seed=seed)
    assert {"claim.after", "commit.after", "commit.before"} <= {name for name, _ in deployment.failpoints_fired()}
    assert len(deployment.failpoints_fired()) > 50


@pytest.mark.full_matrix
@pytest.mark.timeout(300)
def test_a_client_that_dies_before_and_after_every_exchange_continues_when_it_is_started_again(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", pool="asyncio", concurrency=30)
    every = [f"{verb}.{moment}" for verb in OF_CLIENTS for moment in ("before", "after")]
    places = every[(seed - 1) % 3 :: 3]
    arms = deployment.armed(";".join(f"{place}=kill@#1*1" for place in places), "client")
    for life in range(len(places) + 1):
        client = deployment.launch(f"client{life}", "support.programs.chaos_client", more={"UMBEL_FAILPOINTS": arms})
        code = client.process.wait(30)
        assert code in (0, -signal.SIGKILL), client.log()
        deployment.dismiss(client)
        if code == 0:
            break
    assert {place for place, action in deployment.failpoints_fired() if action == "kill"} == set(places)
    copy = (deployment.folder / "copy").read_text()
    fork = (deployment.folder / "fork").read_text()
    found = {run_id: deployment.runtime.attach(run_id).result(40) for run_id in (*RUNS, copy, fork)}
    assert found == RUNS | {copy: RUNS["c-copied"], fork: RUNS["c-state"]}
    differing = [run_id for run_id in found if not deployment.runtime.attach(run_id).verify().holds]
    assert differing == []
    report.add("F7/F8 every place kills, client", seed=seed, runs=len(RUNS))
