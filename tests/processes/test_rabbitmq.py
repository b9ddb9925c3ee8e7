"""RabbitMQ as the broker and Redis for the state: the same guarantees."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import Deploy, Deployment, assert_committed_once, descendants
from support.processes.rabbitmq import find_rabbitmq, rabbitmq
from umbel.workers.embedded.supervisor import Supervisor


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory, supervisor: Supervisor) -> Iterator[str]:
    program = find_rabbitmq()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("There is no rabbitmq-server here, and continuous integration must not go without it.")
        pytest.skip("There is no rabbitmq-server on this machine; install it (apt-get install rabbitmq-server).")
    with rabbitmq(program, tmp_path_factory.mktemp("rabbitmq"), supervisor) as url:
        yield url


@pytest.fixture(scope="module")
def deployment(broker_url: str, deploy_for_module: Deploy) -> Deployment:
    return deploy_for_module(broker_url=broker_url)


@pytest.fixture(scope="module")
def served(deployment: Deployment) -> Deployment:
    for worker in [deployment.worker("one"), deployment.worker("two")]:
        worker.wait_ready()
    return deployment


def test_steps_wait_in_rabbitmq_are_counted_there_and_run_when_a_worker_comes(
    deployment: Deployment, request: pytest.FixtureRequest
) -> None:
    runtime = deployment.runtime

    def backlog(queue: str) -> int | None:
        return runtime.portal.call(runtime.dispatcher.backlog(queue))

    assert backlog("nobody-has-declared-this") == 0
    handlers = [deployment.start(flows.Chain, n=n) for n in range(5)]
    assert backlog(deployment.settings.queue) == 5
    assert [handler.status() for handler in handlers] == ["running"] * 5
    request.getfixturevalue("served")
    assert [handler.result(40) for handler in handlers] == [n * n for n in range(5)]
    eventually(lambda: backlog(deployment.settings.queue) == 0, "nothing waits in RabbitMQ")


def test_a_fan_out_over_rabbitmq_is_gathered_once(served: Deployment) -> None:
    handler = served.start(flows.HeldFan, n=100)

    def at_work() -> set[str]:
        pids = {effect["pid"] for effect in served.effects("square", handler.run_id)}
        return {worker.name for worker in served.workers if pids & descendants(worker.pid)}

    eventually(lambda: at_work() == {"one", "two"}, "both workers have begun steps")  # each can hold only a few
    served.open_gate(handler.run_id)
    assert handler.result(40) == [100, sum(n * n for n in range(100))]
    found = served.executions(handler.run_id)
    assert_committed_once(found)
    assert len([each for each in found if each.step == "total"]) == 1
    assert {each.worker.partition("@")[0] for each in found if each.step == "square"} == {"one", "two"}


def test_a_worker_killed_over_rabbitmq_costs_no_run_anything_but_time(served: Deployment) -> None:
    held = served.start(flows.Held)
    pid = served.await_effects("begun", run_id=held.run_id)[0]["pid"]
    fan = served.start(flows.Fan, n=60, seconds=0.02)
    served.await_effects("square", 20, fan.run_id)
    victim = next(worker for worker in served.workers if pid in descendants(worker.pid))
    victim.kill_group()
    served.await_effects("begun", 2, held.run_id)
    served.open_gate(held.run_id)
    assert held.result(40) == 2
    assert fan.result(40) == [60, sum(n * n for n in range(60))]
    for handler in (held, fan):
        assert_committed_once(served.executions(handler.run_id))
    assert len({each.work_id for each in served.executions(fan.run_id) if each.step == "total"}) == 1
