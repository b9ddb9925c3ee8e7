"""A worker continues with the work that its commits make ready, without the broker, under the rules for messages."""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.events.state import State

from support.eventually import eventually
from support.flows import continuation as flows
from support.flows import everyday as process_flows
from support.flows import shop_after
from support.processes.continuation import FLOWS, WITHOUT_END, goings_on, links, messages
from support.processes.driving import LONG_LEASES, Deploy, Deployment
from umbel import WorkflowCancelledByUser, WorkflowHandler, WorkflowTimeoutError
from umbel.workers.celery_app.app import create_app


@contextmanager
def task_events(deployment: Deployment) -> Iterator[list[dict[str, Any]]]:
    """Celery's events as any monitor receives them."""
    app = create_app(deployment.settings)
    seen: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=True))
        thread.start()
        try:
            yield seen
        finally:
            receiver.should_stop = True
            thread.join()


@pytest.fixture(scope="module")
def lone(deploy_for_module: Deploy) -> Deployment:
    """One worker that never stops continuing, with task events."""
    made = deploy_for_module(**WITHOUT_END)
    options = {"queues": "umbel", "events": True, "log_level": "DEBUG"}
    made.worker("lone", FLOWS, "support.flows.everyday", pool="asyncio", concurrency=50, **options).wait_ready()
    return made


# -- what monitors see ----------------------------------------------------------------------------------------------


def test_every_step_is_a_celery_task_of_its_own_for_monitors(lone: Deployment) -> None:
    with task_events(lone) as seen:
        eventually(lambda: any(event["type"] == "worker-heartbeat" for event in seen), "the monitor hears the worker")
        before = messages(lone.workers[0])
        chain = lone.start(flows.Links, n=8)
        falling = lone.start(flows.Falls)
        assert chain.result(40) == 8
        with pytest.raises(process_flows.Broken, match="attempt 3"):
            falling.result(40)

        def types() -> dict[str, list[str]]:
            found: dict[str, list[str]] = defaultdict(list)
            for event in list(seen):
                if event["type"].startswith("task-"):
                    found[event["uuid"]].append(event["type"].removeprefix("task-"))
            return found

        eventually(lambda: sum(each[-1] not in ("received", "started") for each in types().values()) >= 13, "all ends")
    assert messages(lone.workers[0]) - before == 2
    assert all(each[:2] == ["received", "started"] and len(each) == 3 for each in types().values()), types()

    ends = Counter(
        (e["uuid"], e["type"]) for e in seen if e["type"] in ("task-succeeded", "task-failed", "task-retried")
    )
    expected = {"done": "task-succeeded", "failed": "task-failed", "retrying": "task-retried"}
    recorded: Counter[tuple[str, str]] = Counter()
    for handler in (chain, falling):
        for each in lone.executions(handler.run_id):
            recorded[f"{each.work_id}-{each.attempt}", expected[each.outcome]] += 1
    assert ends == recorded
    names = Counter(event["name"] for event in seen if event["type"] == "task-received")
    assert names == {"Links.begin": 1, "Links.link": 7, "Links.plain_link": 1, "Falls.begin": 1, "Falls.fall": 3}
    state = State()
    for event in seen:
        state.event(event)
    tasks = {task.uuid: task for task in state.tasks.values()}
    of_celery = {"task-succeeded": "SUCCESS", "task-failed": "FAILURE", "task-retried": "RETRY"}
    assert {uuid: task.state for uuid, task in tasks.items()} == {uuid: of_celery[kind] for uuid, kind in ends}
    assert all(task.name and task.hostname for task in tasks.values())
    assert all(task.runtime > 0 for task in tasks.values() if task.state == "SUCCESS")
    # celery-exporter counts failures by the text before the bracket.
    assert {task.exception.partition("(")[0] for task in tasks.values() if task.exception} == {"Broken"}

    failed = [event for event in seen if event["type"] == "task-failed"]
    assert "attempt 3" in failed[0]["exception"]
    assert "raise Broken" in failed[0]["traceback"]


def test_celerys_task_signals_include_steps_without_a_message_of_their_own(lone: Deployment) -> None:
    falling, waiting = lone.start(flows.Falls), lone.start(flows.Waits)
    with pytest.raises(process_flows.Broken):
        falling.result(40)
    lone.await_effects("asked", run_id=waiting.run_id)
    eventually(lambda: "waiting" in {each.outcome for each in lone.executions(waiting.run_id)}, "it waits")
    waiting.send_event(flows.Answer(text="now"))
    assert waiting.result(40) == "now"

    def signals_of(handler: WorkflowHandler, step: str) -> list[tuple[str, str | None]]:
        ids = {f"{each.work_id}-" for each in lone.executions(handler.run_id) if each.step == step}
        found = [each for each in lone.effects() if str(each.get("id", "")).rpartition("-")[0] + "-" in ids]
        assert not [each for each in found if "request" in each], "self.request was of another task"
        return [(each["what"].removeprefix("signal task_"), each.get("state")) for each in found]

    eventually(lambda: signals_of(waiting, "ask")[-1] == ("postrun", "SUCCESS"), "the last signal")
    once = [("prerun", None), ("success", None), ("postrun", "SUCCESS")]
    assert signals_of(falling, "begin").count(("success", None)) == 1
    retried = [("prerun", None), ("retry", None), ("postrun", "RETRY")]
    assert signals_of(falling, "fall") == [
        *retried,
        *retried,
        ("prerun", None),
        ("failure", None),
        ("postrun", "FAILURE"),
    ]
    assert signals_of(waiting, "ask")[:3] == once  # waiting is not a failure


def test_the_current_task_is_the_step_that_is_executed(lone: Deployment) -> None:
    chains = [lone.start(flows.Links, n=8) for _ in range(10)]
    assert [chain.result(40) for chain in chains] == [8] * 10
    for chain in chains:
        ids = {f"{each.work_id}-1" for each in lone.executions(chain.run_id) if each.step == "link"}
        assert {each["task"] for each in lone.effects("link", chain.run_id) if "task" in each} == ids


# -- work that is not continued --------------------------------------------------------------------------------------


def test_without_continuation_every_step_is_a_message_and_the_results_are_the_same(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES | {"continuation_seconds": 0.0})
    worker = deployment.worker("one", FLOWS, pool="asyncio", concurrency=50, log_level="DEBUG").wait_ready()
    chains = [deployment.start(flows.Links, n=n) for n in range(3, 13)]
    assert [chain.result(40) for chain in chains] == list(range(3, 13))
    steps = sum(range(4, 14))
    eventually(lambda: messages(worker) == steps, "every step was a message")
    assert goings_on(worker) == 0
    for chain, n in zip(chains, range(3, 13), strict=True):
        assert links(deployment, chain) == dict.fromkeys(range(1, n + 1), 1)


def test_a_step_of_a_queue_that_a_worker_does_not_consume_goes_to_one_that_does(lone: Deployment) -> None:
    there = lone.worker("there", FLOWS, pool="asyncio", queues="gpu", log_level="DEBUG").wait_ready()
    handlers = [lone.start(flows.Elsewhere) for _ in range(5)]
    assert [handler.result(40) for handler in handlers] == [3] * 5
    for handler in handlers:
        assert [each["pid"] for each in lone.effects("rendered", handler.run_id)] == [there.pid]
    # Neither worker continued with a step whose queue it does not consume: each such step arrived as a message.
    eventually(lambda: messages(there, "Elsewhere.render") == 5, "the worker of the queue got them all")
    eventually(lambda: messages(lone.workers[0], "Elsewhere.end") == 5, "and so did the other one")


def test_a_rate_limit_that_is_set_meanwhile_is_heeded(lone: Deployment) -> None:
    worker = lone.workers[0]
    assert lone.start(flows.Opening, gate="unlimited").result(40) is None
    assert messages(worker, "Opening.middle") == 0
    control = create_app(lone.settings).control
    assert control.rate_limit("Opening.middle", "1000/s", reply=True, timeout=10, limit=1)

    def is_heeded() -> bool:
        assert lone.start(flows.Opening, gate="limited").result(40) is None
        return messages(worker, "Opening.middle") > 0

    eventually(is_heeded, "the limit is heeded")
    assert messages(worker, "Opening.end") == 0


def test_a_step_whose_code_a_worker_lacks_is_parked(deploy: Deploy) -> None:
    deployment = deploy(**WITHOUT_END)
    deployment.worker("old", "support.flows.shop_before", pool="asyncio").wait_ready()
    handler = deployment.start(shop_after.Bundle)
    eventually(lambda: "parked" in deployment.journal_kinds(handler.run_id), "the work is parked")
    assert [(each.step, each.outcome) for each in deployment.executions(handler.run_id)] == [("pick", "done")]
    deployment.worker("new", "support.flows.shop_after", pool="asyncio").wait_ready()
    assert handler.result(40) == "tied"


def test_a_fan_out_spreads_over_the_workers_there_are(deploy: Deploy) -> None:
    deployment = deploy(**WITHOUT_END)
    workers = [deployment.worker(name, FLOWS, pool="asyncio", concurrency=4) for name in ("one", "two")]
    for worker in workers:
        worker.wait_ready()
    handler = deployment.start(flows.Meeting, n=30)
    begun = deployment.await_effects("begun", 8, handler.run_id)  # none of them ends before the gate is opened
    assert Counter(each["pid"] for each in begun) == {worker.pid: 4 for worker in workers}
    deployment.open_gate(handler.run_id)
    assert set(handler.result(40)) == {str(worker.pid) for worker in workers}


def test_an_endless_chain_yields_the_only_slot_to_others(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES | {"continuation_seconds": 0.05})
    worker = deployment.worker("one", FLOWS, pool="asyncio", concurrency=1, log_level="DEBUG").wait_ready()
    chain = deployment.start(flows.Unending)
    eventually(lambda: goings_on(worker, "Unending") >= 100, "it is under way")
    others = [deployment.start(flows.Opening, gate=gate) for gate in ("first", "second", chain.run_id)]
    assert [other.result(40) for other in others] == [None] * 3  # the chain ends only after the last of them
    assert chain.result(40) >= 200
    assert goings_on(worker, "Unending") > messages(worker, "Unending")


# -- async and plain steps -------------------------------------------------------------------------------------------


def test_plain_steps_are_executed_in_several_threads_at_once(lone: Deployment) -> None:
    handler = lone.start(flows.Crowd, n=8)
    lone.await_effects("begun", 8, handler.run_id)  # none of them ends before the gate is opened
    lone.open_gate(handler.run_id)
    assert handler.result(40) == 8


def test_a_context_offers_the_same_to_async_and_to_plain_steps(lone: Deployment) -> None:
    handler = lone.start(flows.Colours)
    eventually(lambda: [e.outcome for e in lone.executions(handler.run_id)].count("waiting") == 1, "one waits")
    handler.send_event(flows.Answer(text="loop"))
    assert handler.result(40) == ["loop 1", "plain 2"]
    assert [each["n"] for each in lone.effects("collected", handler.run_id)] == [[10, 20]]
    texts = [event.text for event in handler.events(timeout=40) if isinstance(event, process_flows.Told)]
    assert set(texts) == {"on_loop", "plain"}


@pytest.mark.parametrize("ends_by", ["cancelling", "time"])
def test_a_run_that_is_over_stops_the_step_that_was_continued(lone: Deployment, ends_by: str) -> None:
    handler = flows.Shield(runtime=lone.runtime, timeout=1.0 if ends_by == "time" else None).start()
    lone.await_effects("waiting", run_id=handler.run_id)
    if ends_by == "cancelling":
        assert handler.cancel()
    with pytest.raises(WorkflowTimeoutError if ends_by == "time" else WorkflowCancelledByUser):
        handler.result(40)
    lone.await_effects("cancelled", run_id=handler.run_id)  # the next heartbeat is 50 s away


def test_every_step_that_begins_in_a_run_that_is_ending_is_cancelled(lone: Deployment) -> None:
    worker = lone.workers[0]

    def ended() -> int:
        return len(re.findall(r"Task Shield.begin\S* succeeded", worker.log()))

    before = ended()
    handlers = []
    for _ in range(100):
        handlers.append(lone.start(flows.Shield))
        if len(handlers) > 5:
            handlers[-6].cancel()  # about when its second step is claimed
    for handler in handlers[-5:]:
        handler.cancel()
    eventually(lambda: ended() - before == 100, "all of them are over")  # the next heartbeat is 50 s away
    cancelled = {each["run"] for each in lone.effects("cancelled")}
    assert {each["run"] for each in lone.effects("waiting")} <= cancelled
