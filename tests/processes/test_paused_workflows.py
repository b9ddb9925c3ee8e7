"""Workflows that are paused for the whole deployment: none of their steps begins, and none is lost."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import umbel
from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import Deploy
from umbel.errors import WorkflowRuntimeError
from umbel.orchestration.engine.pausing.workflows import held_steps, hold, pauses, release
from umbel.workers.cli.main import cli


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_no_step_of_a_paused_workflow_begins_until_it_is_resumed(deploy: Deploy, pool: str) -> None:
    deployment = deploy()
    runtime = deployment.runtime

    def held() -> int:
        return runtime.portal.call(held_steps(runtime.store, "Live"))

    def claims(run_id: str) -> int:
        return deployment.journal_kinds(run_id).count("claim")

    first = deployment.worker("first", pool=pool).wait_ready()
    before = deployment.start(flows.Live)
    eventually(lambda: claims(before.run_id) == 1, "a step of it is running")
    umbel.pause("Live", runtime=runtime)
    eventually(lambda: "begins steps of Live no more" in first.log(), "the worker follows")

    deployment.open_gate(f"{before.run_id}-1")
    after = deployment.start(flows.Live)
    eventually(lambda: held() == 2, "the next step of the one and the first of the other are held")
    assert deployment.start(flows.Chain, n=3).result(40) == 9
    first.kill_group()
    deployment.worker("later", pool=pool).wait_ready()
    late = deployment.start(flows.Live)
    eventually(lambda: held() == 3, "a worker that starts later follows too")
    assert [claims(each.run_id) for each in (before, after, late)] == [1, 0, 0]

    for each in (before, after, late):
        for gate in (1, 2):
            deployment.open_gate(f"{each.run_id}-{gate}")
    assert umbel.resume(flows.Live, runtime=runtime) is False  # it was paused under the last part of its name
    assert umbel.resume("Live", runtime=runtime)
    for each in (before, after, late):
        each.result(40)
    assert held() == 0


def test_what_a_late_worker_still_holds_is_dispatched_too(deploy: Deploy) -> None:
    deployment = deploy()
    runtime = deployment.runtime
    handler = deployment.start(flows.Chain, n=2)
    store = deployment.store
    [member] = store.client.zrange(store.locate(handler.run_id)["unclaimed"], 0, -1)
    store.client.zadd(store.locate(handler.run_id)["held:Chain"], {member: 1})
    umbel.pause(flows.Chain, runtime=runtime)
    umbel.pause("Chain", runtime=runtime)

    assert umbel.resume("Chain", runtime=runtime)
    assert umbel.resume(flows.Chain, runtime=runtime)
    deployment.worker("late", pool="asyncio")

    assert handler.result(40) == 4
    assert runtime.portal.call(pauses(runtime.store)).resumed  # other workers may hold more


def test_a_damaged_run_does_not_hold_up_the_others(deploy: Deploy) -> None:
    deployment = deploy()
    runtime, store = deployment.runtime, deployment.store
    damaged, sound = (deployment.start(flows.Chain, n=2) for _ in range(2))
    for handler in (damaged, sound):
        [work_id] = store.client.hkeys(store.locate(handler.run_id)["work"])
        assert runtime.portal.call(hold(runtime.store, handler.run_id, work_id.decode(), "Chain"))
    work = store.locate(damaged.run_id)["work"]
    store.client.hset(work, store.client.hkeys(work)[0], b"\xc1")

    assert runtime.portal.call(release(runtime.engine, {"Chain": 0}, 1)) is False

    assert "redispatch" in deployment.journal_kinds(sound.run_id)
    assert runtime.portal.call(held_steps(runtime.store, "Chain")) == 0


def test_it_is_paused_by_command(durable_redis_url: str) -> None:
    environment = {"UMBEL_REDIS_URL": durable_redis_url, "UMBEL_KEY_PREFIX": "pausing-by-command"}

    def said(*arguments: str) -> str:
        return CliRunner().invoke(cli, arguments, env=environment).output

    paused = said("pause", "--workflow", "Order")
    assert "Paused workflow 'Order'. Resume it with: umbel resume --workflow Order" in paused
    assert "No live worker has a workflow 'Order'." in paused
    assert "workflow  Order" in said("pause")
    assert "not both" in said("pause", "slow", "--workflow", "Order")
    assert "Resumed workflow 'Order'." in said("resume", "--workflow", "Order")
    assert "Workflow 'Order' is not paused." in said("resume", "-w", "Order")


def test_a_program_pauses_what_it_names(durable_redis_url: str) -> None:
    class Order(umbel.Workflow):
        pass

    runtime = umbel.Runtime(umbel.Settings(redis_url=durable_redis_url, key_prefix="pausing"))
    umbel.pause(Order, runtime=runtime)
    umbel.pause("Invoice", runtime=runtime)
    umbel.pause(queue="slow", runtime=runtime)

    found = [(each.kind, each.name.rpartition(".")[2]) for each in umbel.paused(runtime=runtime)]
    assert found == [("workflow", "Invoice"), ("workflow", "Order"), ("queue", "slow")]
    assert umbel.resume(Order, runtime=runtime)
    assert umbel.resume("Invoice", runtime=runtime)
    assert umbel.resume(queue="slow", runtime=runtime)
    assert not umbel.resume(queue="slow", runtime=runtime)
    assert umbel.paused(runtime=runtime) == []
    with pytest.raises(WorkflowRuntimeError, match="either a workflow or a queue"):
        umbel.pause(Order, queue="slow", runtime=runtime)
    runtime.close()
