"""`@step(queue=…, priority=…)`: where a step runs, and which of two waiting steps runs first."""

from __future__ import annotations

from typing import Any

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.direct_delivery import remote_control
from support.processes.driving import LONG_LEASES, Deploy


def test_a_step_with_a_queue_runs_only_on_the_worker_that_consumes_it(deploy: Deploy) -> None:
    deployment = deploy()
    deployment.worker("cpu", pool="threads", queues="umbel").wait_ready()
    handlers = [deployment.start(flows.OnGpu) for _ in range(3)]
    for handler in handlers:
        with pytest.raises(TimeoutError):  # the rest of the workflow is done, and no worker consumes the queue
            handler.result(0.5)
    deployment.worker("gpu", pool="threads", queues="gpu").wait_ready()
    assert [handler.result(40) for handler in handlers] == [10] * 3
    for handler in handlers:
        found = deployment.executions(handler.run_id)
        assert {each.worker.partition("@")[0] for each in found if each.step == "render"} == {"gpu"}
        assert {each.worker.partition("@")[0] for each in found if each.step != "render"} == {"cpu"}


def test_of_the_waiting_steps_those_with_the_better_priority_come_first(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES)
    deployment.worker("one", pool="solo", concurrency=1).wait_ready()
    held = deployment.start(flows.HeldOnLoop)
    deployment.await_effects("begun", run_id=held.run_id)
    patient = [deployment.start(flows.Patient) for _ in range(5)]
    urgent = [deployment.start(flows.Urgent) for _ in range(5)]  # on a Redis broker, 0 comes first, as in Celery
    deployment.open_gate(held.run_id)
    for handler in [held, *patient, *urgent]:
        handler.result(40)
    order = [each["what"] for each in deployment.effects() if each["what"] in ("urgent", "patient")]
    assert order == ["urgent"] * 5 + ["patient"] * 5


def test_a_worker_whose_queues_none_of_its_steps_use_says_so(deploy: Deploy) -> None:
    worker = deploy().worker("lost", pool="threads", queues="gpus,cpus").wait_ready()

    eventually(lambda: "none of this worker's steps use the queues" in worker.log(), "it says so")
    assert "(cpus, gpus), so it will execute nothing: they use gpu, umbel." in worker.log()


@pytest.mark.parametrize("pool", ["asyncio", "threads"])
def test_queues_that_remote_control_cannot_add_or_cancel_cost_no_worker_not_even_when_it_reconnects(
    deploy: Deploy, pool: str
) -> None:
    deployment = deploy(**LONG_LEASES)
    worker = deployment.worker("one", pool=pool).wait_ready()
    wrong: list[dict[str, Any]] = [
        {"queue": [1]},
        {"queue": {"a": 1}},
        {"queue": "q", "exchange": [1]},
        {"queue": "r", "exchange": "r", "exchange_type": "nobody's"},
        {"queue": "s", "durable": {}, "bindings": 5},
    ]
    with remote_control(deployment) as app:
        for arguments in wrong:
            app.control.broadcast("add_consumer", arguments=arguments, reply=True, timeout=20, limit=1)
        for queue in ([1], {"a": 1}):
            app.control.broadcast("cancel_consumer", arguments={"queue": queue}, reply=True, timeout=20, limit=1)
        said = "Remote control could not change the queues"
        eventually(lambda: worker.log().count(said) == len(wrong) + 2, "the worker has tried them all")
    client = deployment.store.client
    for each in client.client_list():
        if each["cmd"] == "brpop":
            client.client_kill_filter(_id=each["id"])
    eventually(lambda: worker.log().count("Connected to") == 2, "the worker has connected again")
    assert deployment.start(flows.Chain, n=2).result(40) == 4
    assert worker.log().count("Connection to broker lost") == 1
    assert worker.process.poll() is None
