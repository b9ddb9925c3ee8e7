"""umbel's pool and each of Celery's own run workflows: one worker process per pool, the same steps."""

from __future__ import annotations

import itertools
import re

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import LONG_LEASES, Deploy, Deployment
from umbel import StepTimeoutError, StopEvent, WorkflowCancelledByUser


@pytest.fixture(scope="module", params=["asyncio", "prefork", "threads", "solo"])
def deployment(request: pytest.FixtureRequest, deploy_for_module: Deploy) -> Deployment:
    made = deploy_for_module(**LONG_LEASES)
    made.worker(request.param, pool=request.param).wait_ready()
    return made


def test_a_chain_of_async_and_plain_steps_gives_its_result(deployment: Deployment) -> None:
    handlers = [deployment.start(flows.Chain, n=n) for n in range(10)]
    assert [handler.result(40) for handler in handlers] == [n * n for n in range(10)]


def test_a_fan_out_is_gathered_again(deployment: Deployment) -> None:
    handler = deployment.start(flows.Fan, n=30)
    assert handler.result(40) == [30, sum(n * n for n in range(30))]
    assert len(deployment.effects("square", handler.run_id)) == 30
    assert len(deployment.effects("total", handler.run_id)) == 1


@pytest.mark.parametrize("workflow", [flows.Fails, flows.FailsOnLoop])
def test_a_steps_exception_reaches_the_caller_in_its_own_type(
    deployment: Deployment, workflow: type[flows.Fails]
) -> None:
    with pytest.raises(flows.Broken, match="^no such colour: 'grün'$"):
        deployment.start(workflow, colour="grün").result(40)


def test_a_failed_step_is_tried_again_after_its_delay(deployment: Deployment) -> None:
    handler = deployment.start(flows.Retried)
    assert handler.result(40) == 2
    tried = deployment.effects("tried", handler.run_id)
    assert [each["attempt"] for each in tried] == [1, 2, 3]
    assert all(later["at"] - earlier["at"] >= 0.4 for earlier, later in itertools.pairwise(tried))
    assert [each.outcome for each in deployment.executions(handler.run_id)] == ["retrying", "retrying", "done"]


def test_events_are_read_while_the_step_that_wrote_them_is_still_at_work(deployment: Deployment) -> None:
    handler = deployment.start(flows.Live)
    heard = []
    for event in handler.events(timeout=40):
        if isinstance(event, flows.Told):
            heard.append(event.text)
            deployment.open_gate(f"{handler.run_id}-{len(heard)}")  # the step continues only after that
        else:
            assert type(event) is StopEvent
    assert heard == ["from the loop", "from a plain step"]
    assert handler.result(40) == "heard"


def test_a_plain_step_that_takes_too_long_is_interrupted(deployment: Deployment) -> None:
    handler = deployment.start(flows.TooSlow)
    expected = f"Step 'spin' of run {handler.run_id!r} took longer than its timeout of 0.3 s."
    with pytest.raises(StepTimeoutError, match=f"^{re.escape(expected)}$"):
        handler.result(40)


def test_an_async_step_that_takes_too_long_is_interrupted(deployment: Deployment) -> None:
    with pytest.raises(StepTimeoutError, match="'dawdle'"):
        deployment.start(flows.TooSlowOnLoop).result(40)


def test_async_steps_share_one_event_loop_per_process(deployment: Deployment) -> None:
    seen = deployment.start(flows.Where, n=40).result(40)
    assert len(seen) == 40
    assert {loop for _, loop, _ in seen} == {"0"}, "a process had more than one loop"
    assert {on_main for _, _, on_main in seen} == {"False"}


def test_cancelling_stops_an_async_step_in_the_worker_at_once(deployment: Deployment) -> None:
    handler = deployment.start(flows.Endless)
    deployment.await_effects("waiting", run_id=handler.run_id)
    assert handler.cancel()
    cancelled = deployment.await_effects("cancelled", run_id=handler.run_id)  # the next heartbeat is 50 s away
    assert [each["attempt"] for each in cancelled] == [1]
    with pytest.raises(WorkflowCancelledByUser, match=handler.run_id):
        handler.result(40)
    assert not handler.cancel()  # it has ended
    assert deployment.start(flows.Chain, n=3).result(40) == 9  # its slot is free again


def test_a_run_that_has_ended_leaves_nothing_in_the_indexes(deployment: Deployment) -> None:
    store = deployment.store
    names = ("unclaimed", "unclaimed_counts", "timers", "parked", "runs:running")
    keys = [store.keys.in_shard(shard, name) for shard in range(deployment.settings.shards) for name in names]
    assert deployment.start(flows.Fan, n=5).result(40)[0] == 5
    eventually(lambda: store.client.exists(*keys) == 0, "all indexes are empty")


def test_a_worker_that_ends_has_sent_how_long_its_steps_took(deployment: Deployment) -> None:
    [worker] = deployment.workers
    before = len(deployment.effects("first"))
    assert deployment.start(flows.Chain, n=2).result(40) == 4

    worker.terminate()

    assert worker.process.wait(60) == 0
    assert deployment.observed("first") == before + 1
