"""Work for which no worker has the code waits; it does not fail, and it is not lost."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.flows import shop_after
from support.processes.driving import Deploy
from umbel.tasks.client.runtime import Runtime


def test_work_without_code_is_parked_until_a_worker_that_has_it_starts(deploy: Deploy) -> None:
    deployment = deploy()
    old = deployment.worker("old", "support.flows.shop_before", pool="solo").wait_ready()
    unknown_task = deployment.start(shop_after.Refund)
    unknown_workflow = deployment.start(shop_after.Order)
    unknown_step = deployment.start(shop_after.Parcel)
    handlers = [unknown_task, unknown_workflow, unknown_step]
    for handler in handlers:
        eventually(lambda h=handler: "parked" in deployment.journal_kinds(h.run_id), "the work is parked")
    assert [handler.status() for handler in handlers] == ["running"] * 3
    for said in (
        "This worker cannot run step 'pay_back' of workflow 'support.flows.shop_after.Refund': "
        "the workflow is not loaded here.",
        "This worker cannot run step 'charge' of workflow 'support.flows.shop_after.Order': "
        "the workflow is not loaded here.",
        "This worker cannot run step 'wrap' of workflow 'shop.Parcel': the workflow has no such step here.",
        "The work is parked until a worker that has the code starts. Loaded here: "
        "support.flows.shop_before.Order, shop.Parcel, shop.Bundle.",
    ):
        eventually(lambda said=said: said in old.log(), said)

    deployment.worker("new", "support.flows.shop_after", pool="solo").wait_ready()
    assert [handler.result(40) for handler in handlers] == ["paid back", "charged", "wrapped"]
    for handler in handlers:
        found = deployment.executions(handler.run_id)
        assert {each.outcome for each in found} == {"done"}
        assert {each.attempt for each in found} == {1}
    assert old.process.poll() is None


def test_without_any_worker_a_run_stays_running_and_begins_when_there_is_one(deploy: Deploy) -> None:
    deployment = deploy()
    handler = deployment.start(flows.Chain, n=4)
    with pytest.raises(TimeoutError, match=rf"Run '{handler.run_id}' has not ended within 0\.3 s\. It continues"):
        handler.result(timeout=0.3)
    assert handler.status() == "running"
    assert not handler.is_done()
    deployment.worker("late", pool="solo")
    assert handler.result(40) == 16


NAMESAKE = """
from umbel import StartEvent, StopEvent, Workflow, step


class Namesake(Workflow):
    @step
    async def {step}(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="{step}")
"""


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_work_of_a_client_that_knows_other_workflows_of_one_name_than_the_worker_is_executed(
    deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """Celery tasks have the last part of a workflow's name, unless a process knows two workflows with that part."""
    deployment = deploy()
    for step in ("first", "second"):
        (tmp_path / f"namesakes_{step}.py").write_text(NAMESAKE.format(step=step))
    monkeypatch.syspath_prepend(tmp_path)
    first, second = (importlib.import_module(f"namesakes_{step}").Namesake for step in ("first", "second"))
    both = deployment.worker("both", "namesakes_first", "namesakes_second", pool=pool, queues="umbel").wait_ready()

    assert deployment.start(second).result(40) == "second"  # the worker's task is namesakes_second.Namesake.second

    both.kill_group()
    deployment.worker("one", "namesakes_first", pool=pool, queues="umbel").wait_ready()
    knows_both = Runtime(deployment.settings)
    knows_both.registry.add(second)
    try:
        run = first(runtime=knows_both, timeout=None).start()  # its task is namesakes_first.Namesake.first
        assert run.result(40) == "first"
    finally:
        knows_both.close()
