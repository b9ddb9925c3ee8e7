"""Steps that do what no step should do: the consequences are limited and reported, and affect no other run."""

from __future__ import annotations

import os

import pytest

from support.eventually import eventually
from support.flows import everyday as process_flows
from support.flows import recovery as flows
from support.processes.driving import Deploy, Deployment
from umbel import WorkerLost, Workflow, WorkflowHandler
from umbel.orchestration.model.errors import StepTimeoutError

#: What a step may do that must end only its attempt -> the text of the run's failure.
HARMLESS = {
    "exit": "sys.exit(3)|SystemExit(3)",
    "keyboard interrupt": "KeyboardInterrupt()",
    "generator exit": "GeneratorExit()",
    "cancelled": "CancelledError",
    "base exception": "Strange('boo')",
    "recursion": "maximum recursion depth exceeded",
    "memory error": "MemoryError",
}


@pytest.fixture(scope="module", params=["prefork", "asyncio", "threads"])
def deployment(request: pytest.FixtureRequest, deploy_for_module: Deploy) -> Deployment:
    made = deploy_for_module(max_losses=1)
    made.worker(
        "one", "support.flows.recovery", "support.flows.everyday", pool=request.param, concurrency=4
    ).wait_ready()
    return made


def failure_of(handler: WorkflowHandler) -> str:
    eventually(handler.is_done, "it has failed")
    assert handler.status() == "failed"
    with pytest.raises(BaseException) as failed:  # noqa: PT011
        handler.result(10)
    return f"{type(failed.value).__name__}: {failed.value}"


@pytest.mark.parametrize(
    ("workflow", "held"),
    [(flows.Misbehaves, process_flows.HeldOnLoop), (flows.PlainlyMisbehaves, process_flows.Held)],
)
def test_a_step_that_raises_what_no_step_should_fails_and_its_process_lives(
    deployment: Deployment, workflow: type[Workflow], held: type[Workflow]
) -> None:
    beside = deployment.start(held)
    [begun] = deployment.await_effects("begun", run_id=beside.run_id)

    handlers = {how: deployment.start(workflow, how=how) for how in HARMLESS}
    failures = {how: failure_of(handler) for how, handler in handlers.items()}

    for how, text in HARMLESS.items():
        assert any(each in failures[how] for each in text.split("|")), failures[how]
        assert len(deployment.effects("misbehaving", handlers[how].run_id)) == 1
    assert deployment.workers[0].process.poll() is None
    os.kill(begun["pid"], 0)
    deployment.open_gate(beside.run_id)
    assert beside.result(40) == 1, "its attempt was not lost"
    assert deployment.counter("losses") == 0


def test_a_step_that_cancels_its_own_task_fails_instead_of_running_again(deployment: Deployment) -> None:
    cancelling = deployment.start(flows.CancelsItself)
    assert "ended with CancelledError(" in failure_of(cancelling)
    assert len(deployment.effects("cancelling itself", cancelling.run_id)) == 1
    assert deployment.counter("losses") == 0


@pytest.mark.parametrize("workflow", [flows.CancelsAllTasks, flows.StopsItsLoop])
def test_a_step_that_cancels_all_tasks_of_its_loop_or_stops_it_leaves_a_worker_that_works(
    deployment: Deployment, workflow: type[Workflow]
) -> None:
    run = deployment.start(workflow)
    eventually(run.is_done, "it has ended, or failed where it is one of these tasks itself")
    assert len(deployment.executions(run.run_id)) == 1
    assert deployment.start(process_flows.Chain, n=3).result(40) == 9
    assert deployment.workers[0].process.poll() is None


@pytest.mark.parametrize("workflow", [flows.Forks, flows.PlainlyForks])
def test_a_process_that_a_step_has_forked_ends_where_it_leaves_the_step(
    deployment: Deployment, workflow: type[Workflow]
) -> None:
    """It shares the connections of its worker, and would otherwise continue as a worker."""
    assert deployment.start(workflow).result(40) == 3
    assert deployment.start(process_flows.Chain, n=3).result(40) == 9


@pytest.mark.parametrize("how", ["os._exit", "abort"])
def test_a_step_that_ends_its_pool_process_is_given_up_after_as_many_losses_as_are_charged(
    deploy: Deploy, how: str
) -> None:
    deployment = deploy(max_losses=2)
    worker = deployment.worker(
        "one", "support.flows.recovery", "support.flows.everyday", pool="prefork", concurrency=2
    ).wait_ready()
    chains = [deployment.start(process_flows.Chain, n=n) for n in range(5)]
    deadly = deployment.start(flows.PlainlyMisbehaves, how=how)

    with pytest.raises(WorkerLost, match="was executing when its process died, 3 times in all"):
        deadly.result(50)

    assert len(deployment.effects("misbehaving", deadly.run_id)) == 3
    assert [chain.result(40) for chain in chains] == [n * n for n in range(5)]
    assert worker.process.poll() is None


def test_a_step_that_hangs_in_a_thread_fails_at_its_time_limit_and_is_reported(deploy: Deploy) -> None:
    deployment = deploy()
    worker = deployment.worker(
        "one", "support.flows.recovery", "support.flows.everyday", pool="asyncio", concurrency=20
    ).wait_ready()
    hanging = deployment.start(flows.Hangs, holds_lock=False)

    with pytest.raises(StepTimeoutError, match=r"did not end within its timeout of 1\.0 s and did not respond"):
        hanging.result(40)

    assert len(deployment.effects("hanging", hanging.run_id)) == 1
    said = f"step go of run {hanging.run_id} ignored its time limit"
    eventually(lambda: said in worker.log(), "the worker logs it")
    assert deployment.start(process_flows.Chain, n=3).result(40) == 9


def test_a_step_that_never_lets_go_of_pythons_lock_occupies_few_processes_and_harms_no_other_run(
    deploy: Deploy,
) -> None:
    deployment = deploy(max_losses=1)
    worker = deployment.worker(
        "one", "support.flows.recovery", "support.flows.everyday", pool="prefork", concurrency=4
    ).wait_ready()
    hanging = deployment.start(flows.Hangs, holds_lock=True)
    deployment.await_effects("hanging")
    chains = [deployment.start(process_flows.Chain, n=n) for n in range(5)]

    with pytest.raises((WorkerLost, StepTimeoutError)):
        hanging.result(50)

    assert len(deployment.effects("hanging", hanging.run_id)) <= 1 + deployment.settings.max_losses
    assert [chain.result(40) for chain in chains] == [n * n for n in range(5)]
    assert worker.process.poll() is None
