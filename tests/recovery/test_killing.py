"""SIGKILL in mid-run to whatever executes steps: every run ends as it would have, and nothing is recorded twice."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import (
    LONG_LEASES,
    Deploy,
    Deployment,
    WorkerUnderTest,
    assert_committed_once,
    descendants,
    is_alive,
)
from umbel import WorkerLost


def holder(deployment: Deployment, run_id: str) -> tuple[WorkerUnderTest, int]:
    """Return the worker that executes a held step, and the pid of its process that does."""
    pid = deployment.await_effects("begun", run_id=run_id)[-1]["pid"]
    return next(each for each in deployment.workers if pid in descendants(each.pid) | {each.pid}), pid


#: Without the features that save messages, fetches and round trips per step.
UNHURRIED = {"continuation_seconds": 0.0, "batched_fetch": False, "grouped_scripts": False}


@pytest.mark.parametrize(
    ("pool", "only_main", "settings"),
    [("prefork", False, {}), ("prefork", True, {}), ("asyncio", True, {}), ("asyncio", True, UNHURRIED)],
    ids=["its whole process group", "only its main process", "its event loop and all", "an unhurried event loop"],
)
def test_a_killed_worker_costs_no_run_anything_but_time(
    deploy: Deploy, pool: str, only_main: bool, settings: dict[str, Any]
) -> None:
    deployment = deploy(**settings)
    workers = [deployment.worker(name, pool=pool) for name in ("one", "two")]
    for worker in workers:
        worker.wait_ready()
    held = deployment.start(flows.Held)
    victim, _ = holder(deployment, held.run_id)
    fans = [deployment.start(flows.Fan, n=60, seconds=0.02) for _ in range(2)]
    chains = [deployment.start(flows.Chain, n=n, seconds=0.02) for n in range(30)]
    deployment.await_effects("square", 40)
    children = descendants(victim.pid)
    before = time.monotonic()
    if only_main:
        victim.kill_main()
        eventually(lambda: not any(is_alive(pid) for pid in children), "the children follow their main process")
    else:
        victim.kill_group()

    again = deployment.await_effects("begun", 2, held.run_id)[-1]
    recovery_seconds = again["at"] - before
    deployment.open_gate(held.run_id)
    assert held.result(40) == 2
    assert [fan.result(40) for fan in fans] == [[60, sum(n * n for n in range(60))]] * 2
    assert [chain.result(40) for chain in chains] == [n * n for n in range(30)]

    print(f"the killed worker's step was at work again after {recovery_seconds:.1f} s")
    assert recovery_seconds < 10 + deployment.settings.lease_seconds + deployment.settings.sweep_seconds
    survivor = next(worker for worker in workers if worker is not victim)
    assert again["pid"] in descendants(survivor.pid) | {survivor.pid}
    assert survivor.process.poll() is None
    assert [each.outcome for each in deployment.executions(held.run_id) if each.step == "held"] == ["lost", "done"]
    assert deployment.counter("losses") >= 1
    for handler in [held, *fans, *chains]:
        assert_committed_once(deployment.executions(handler.run_id))
    for fan in fans:
        assert len({each.work_id for each in deployment.executions(fan.run_id) if each.step == "total"}) == 1


@pytest.fixture(scope="module")
def patient(deploy_for_module: Deploy) -> Deployment:
    """A deployment with leases so long that nothing here can be detected by their expiry."""
    made = deploy_for_module(**LONG_LEASES)
    made.worker("patient").wait_ready()
    return made


@pytest.mark.parametrize("workflow", [flows.Held, flows.HeldOnLoop])
def test_the_work_of_a_killed_child_is_handed_back_at_once(patient: Deployment, workflow: type[flows.Held]) -> None:
    struck, beside = patient.start(workflow), patient.start(workflow)
    worker, child = holder(patient, struck.run_id)
    assert holder(patient, beside.run_id)[1] != child
    os.kill(child, signal.SIGKILL)
    again = patient.await_effects("begun", 2, struck.run_id)  # long before the lease of 120 s expires
    assert [each["attempt"] for each in again] == [1, 2]
    for handler in (struck, beside):
        patient.open_gate(handler.run_id)
    assert struck.result(40) == 2
    assert beside.result(40) == 1
    assert len(patient.effects("begun", beside.run_id)) == 1
    assert worker.process.poll() is None
    assert_committed_once(patient.executions(struck.run_id))


def test_a_step_that_kills_its_process_fails_as_worker_lost_and_harms_no_step_beside_it(patient: Deployment) -> None:
    beside = patient.start(flows.Held)
    patient.await_effects("begun", run_id=beside.run_id)
    suicidal = patient.start(flows.Suicidal)
    chains = [patient.start(flows.Chain, n=n) for n in range(5)]
    with pytest.raises(WorkerLost, match=f"Step 'go' of run '{suicidal.run_id}' was executing when its process died"):
        suicidal.result(50)
    # The first loss makes it a suspect and is not charged.
    charged = patient.settings.max_losses
    assert [each["attempt"] for each in patient.effects("dying", suicidal.run_id)] == list(range(1, charged + 2))
    assert [chain.result(40) for chain in chains] == [n * n for n in range(5)]
    patient.open_gate(beside.run_id)
    assert beside.result(40) == 1
    assert len(patient.effects("begun", beside.run_id)) == 1
