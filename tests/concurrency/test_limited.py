"""A limited workflow on two worker processes: killing one loses no admission."""

from __future__ import annotations

from itertools import groupby

from support.flows import everyday as flows
from support.processes.driving import Deploy, descendants
from umbel.tasks.client.runtime import Runtime


def test_a_run_whose_worker_is_killed_keeps_its_admission_until_it_ends(deploy: Deploy) -> None:
    deployment = deploy()
    for name in ("one", "two"):
        deployment.worker(name).wait_ready()
    clients = [deployment.runtime, Runtime(deployment.settings)]
    handlers = [
        flows.HeldOnLoop(runtime=clients[n % 2], timeout=None, num_concurrent_runs=1).start(run_id=f"limited{n}")
        for n in range(4)
    ]
    for handler in handlers[1:]:
        deployment.open_gate(handler.run_id)

    pid = deployment.await_effects("begun", run_id=handlers[0].run_id)[0]["pid"]
    victim = next(worker for worker in deployment.workers if pid in descendants(worker.pid))
    victim.kill_group()
    deployment.await_effects("begun", 2, run_id=handlers[0].run_id)  # the other worker executes the step again
    deployment.open_gate(handlers[0].run_id)

    assert [handler.result(40) for handler in handlers] == [2, 1, 1, 1]
    done = [(each["run"], each["what"]) for each in deployment.effects() if each["what"] in ("begun", "ended")]
    assert [run_id for run_id, _ in groupby(done, key=lambda each: each[0])] == [each.run_id for each in handlers]
    clients[1].close()


def test_runs_that_end_while_workers_are_killed_let_all_others_be_admitted(deploy: Deploy) -> None:
    deployment = deploy()
    first, second = (deployment.worker(name) for name in ("one", "two"))
    for worker in (first, second):
        worker.wait_ready()
    flow = flows.HeldOnLoop(runtime=deployment.runtime, timeout=None, num_concurrent_runs=2)
    handlers = [flow.start(run_id=f"many{n}") for n in range(40)]
    for handler in handlers:
        deployment.open_gate(handler.run_id)

    deployment.await_effects("ended", 8)
    first.kill_group()
    deployment.worker("three").wait_ready()
    deployment.await_effects("ended", 24)
    second.kill_group()

    assert all(handler.result(60) >= 1 for handler in handlers)
    going_on: set[str] = set()
    for each in deployment.effects():
        if each["what"] == "begun":
            going_on.add(each["run"])
        elif each["what"] == "ended":
            going_on.discard(each["run"])
        assert len(going_on) <= 2
