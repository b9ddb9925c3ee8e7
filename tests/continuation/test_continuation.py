"""A worker goes on with what its commits make ready, past the broker: what holds for messages holds for that too."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.eventually import eventually
from support.flows import continuation as flows
from support.flows import everyday as process_flows
from support.flows import shop_after
from support.processes.driving import LONG_LEASES, Deploy, Deployment, WorkerUnderTest, assert_committed_once
from umbel import WorkerLost, WorkflowCancelledByUser, WorkflowHandler, WorkflowTimeoutError
from umbel.workers.celery_app.app import create_app

FLOWS = "support.flows.continuation"

#: Continuation that no slow machine brings to an end: what happened then did not happen by chance.
WITHOUT_END = LONG_LEASES | {"redispatch_seconds": 1.0, "continuation_seconds": 1000.0}


def messages(worker: WorkerUnderTest, task: str = "") -> int:
    """How many messages a worker has got."""
    return len(re.findall(rf"Task {task}\S* received", worker.log()))


def goings_on(worker: WorkerUnderTest, task: str = "") -> int:
    """How often a worker has gone on with something past the broker."""
    return len(re.findall(rf"Task {task}\S* continued on this worker", worker.log()))


def links(deployment: Deployment, handler: WorkflowHandler) -> Counter[int]:
    """How often each link of a chain was executed."""
    return Counter(each["n"] for each in deployment.effects("link", handler.run_id))


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
    """One worker that never stops going on, with task events."""
    made = deploy_for_module(**WITHOUT_END)
    made.worker("lone", FLOWS, "support.flows.everyday", pool="asyncio", concurrency=50, queues="umbel", events=True)
    made.workers[0].wait_ready()
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
    told: Counter[tuple[str, str]] = Counter()
    for handler in (chain, falling):
        for each in lone.executions(handler.run_id):
            told[f"{each.work_id}-{each.attempt}", expected[each.outcome]] += 1
    assert ends == told
    names = Counter(event["name"] for event in seen if event["type"] == "task-received")
    assert names == {"Links.begin": 1, "Links.link": 7, "Links.plain_link": 1, "Falls.begin": 1, "Falls.fall": 3}
    failed = [event for event in seen if event["type"] == "task-failed"]
    assert "attempt 3" in failed[0]["exception"]
    assert "raise Broken" in failed[0]["traceback"]


def test_celerys_task_signals_tell_of_steps_that_no_message_came_for(lone: Deployment) -> None:
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
    assert signals_of(waiting, "ask")[:3] == once  # that it waits is no failure


def test_the_current_task_is_the_step_that_is_executed(lone: Deployment) -> None:
    chains = [lone.start(flows.Links, n=8) for _ in range(10)]
    assert [chain.result(40) for chain in chains] == [8] * 10
    for chain in chains:
        ids = {f"{each.work_id}-1" for each in lone.executions(chain.run_id) if each.step == "link"}
        assert {each["task"] for each in lone.effects("link", chain.run_id) if "task" in each} == ids


# -- what is not gone on with -----------------------------------------------------------------------------------------


def test_without_continuation_every_step_is_a_message_and_the_results_are_the_same(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES | {"continuation_seconds": 0.0})
    worker = deployment.worker("one", FLOWS, pool="asyncio", concurrency=50).wait_ready()
    chains = [deployment.start(flows.Links, n=n) for n in range(3, 13)]
    assert [chain.result(40) for chain in chains] == list(range(3, 13))
    steps = sum(range(4, 14))
    eventually(lambda: messages(worker) == steps, "every step was a message")
    assert goings_on(worker) == 0
    for chain, n in zip(chains, range(3, 13), strict=True):
        assert links(deployment, chain) == dict.fromkeys(range(1, n + 1), 1)


def test_a_step_of_a_queue_that_a_worker_does_not_consume_goes_to_one_that_does(lone: Deployment) -> None:
    there = lone.worker("there", FLOWS, pool="asyncio", queues="gpu").wait_ready()
    handlers = [lone.start(flows.Elsewhere) for _ in range(5)]
    assert [handler.result(40) for handler in handlers] == [3] * 5
    for handler in handlers:
        assert [each["pid"] for each in lone.effects("rendered", handler.run_id)] == [there.pid]
    # Neither worker continued with a step whose queue it does not consume: each arrived as a message.
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


def test_a_chain_without_end_leaves_others_their_turn_in_the_only_slot(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES | {"continuation_seconds": 0.05})
    worker = deployment.worker("one", FLOWS, pool="asyncio", concurrency=1).wait_ready()
    chain = deployment.start(flows.Unending)
    eventually(lambda: goings_on(worker, "Unending") >= 100, "it is under way")
    others = [deployment.start(flows.Opening, gate=gate) for gate in ("first", "second", chain.run_id)]
    assert [other.result(40) for other in others] == [None] * 3  # the chain ends only when the last of them has
    assert chain.result(40) >= 200
    assert goings_on(worker, "Unending") > messages(worker, "Unending")


# -- killed, stopped, terminated --------------------------------------------------------------------------------------


def test_a_worker_killed_amid_chains_loses_nothing_and_repeats_only_what_it_had_in_hand(deploy: Deploy) -> None:
    deployment = deploy(**WITHOUT_END)
    victim = deployment.worker("victim", FLOWS, pool="asyncio", concurrency=100).wait_ready()
    held = [deployment.start(flows.Links, n=30, held=[n, 12]) for n in (7, 10)]  # an async and a plain one
    for chain, n in zip(held, (7, 10), strict=True):
        eventually(lambda chain=chain, n=n: links(deployment, chain)[n] == 1, "it is held")
    chains = [deployment.start(flows.Links, n=30) for _ in range(20)]
    deployment.await_effects("link", 200)
    victim.kill_group()
    messages_before = messages(victim)
    assert messages_before <= 22  # all but the first steps were gone on with

    deployment.worker("heir", FLOWS, pool="asyncio", concurrency=100).wait_ready()
    for chain, n in zip(held, (7, 10), strict=True):
        deployment.open_gate(f"{chain.run_id}-{n}")
    for chain in held:  # a suspect lets the next one have its turn before its chain goes on
        eventually(lambda chain=chain: links(deployment, chain)[12] == 1, "both have come further")
    for chain in held:
        deployment.open_gate(f"{chain.run_id}-12")
    assert [chain.result(40) for chain in [*held, *chains]] == [30] * 22
    for chain in [*held, *chains]:
        found = deployment.executions(chain.run_id)
        assert_committed_once(found)
        assert Counter(each.outcome for each in found if each.outcome != "lost") == {"done": 31}
        executed = links(deployment, chain)
        assert set(executed) == set(range(1, 31))
        lost = [each for each in found if each.outcome == "lost"]
        assert len(lost) <= 1, "only one step of a chain was in hand"
        assert executed.total() <= 30 + len(lost)
    for chain, n in zip(held, (7, 10), strict=True):
        assert links(deployment, chain)[n] == 2


def test_a_stopped_worker_that_comes_back_finds_its_steps_given_away(deploy: Deploy) -> None:
    deployment = deploy(continuation_seconds=1000.0)
    sleeper = deployment.worker("sleeper", FLOWS, pool="asyncio", concurrency=100).wait_ready()
    held = deployment.start(flows.Links, n=30, held=[10, 20])  # the tenth is a plain step, which nothing interrupts
    eventually(lambda: links(deployment, held)[10] == 1, "it is held")
    chains = [deployment.start(flows.Links, n=30) for _ in range(10)]
    deployment.await_effects("link", 100)
    os.kill(sleeper.pid, signal.SIGSTOP)
    deployment.worker("heir", FLOWS, pool="asyncio", concurrency=100).wait_ready()
    deployment.open_gate(f"{held.run_id}-10")
    assert [chain.result(40) for chain in chains] == [30] * 10
    eventually(lambda: links(deployment, held)[20] == 1, "the other worker has come further")

    os.kill(sleeper.pid, signal.SIGCONT)
    eventually(lambda: deployment.counter("stale_commits") >= 1, "the late outcome is refused")
    eventually(lambda: "was declared dead" in sleeper.log(), "it begins anew")
    deployment.open_gate(f"{held.run_id}-20")
    assert held.result(40) == 30
    released = [(each["n"], each["pid"] == sleeper.pid) for each in deployment.effects("released", held.run_id)]
    assert sorted(released) == [(10, False), (10, True), (20, False)]
    for chain in [held, *chains]:
        found = deployment.executions(chain.run_id)
        assert_committed_once(found)
        assert Counter(each.outcome for each in found)["done"] == 31
        executed = links(deployment, chain)
        assert set(executed) == set(range(1, 31))
        assert executed.total() <= 30 + [each.outcome for each in found].count("lost")
    meeting = deployment.start(flows.Meeting, n=200)
    eventually(lambda: any(e["pid"] == sleeper.pid for e in deployment.effects("begun", meeting.run_id)), "it works on")
    deployment.open_gate(meeting.run_id)
    assert len(meeting.result(40)) == 200


def test_a_terminated_worker_ends_the_step_in_hand_and_hands_the_chain_on(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES)  # nobody rings again for a minute
    leaving = deployment.worker("leaving", FLOWS, pool="asyncio", concurrency=10).wait_ready()
    chains = [deployment.start(flows.Links, n=30, held=[n]) for n in (10, 11, 12)]
    for chain, n in zip(chains, (10, 11, 12), strict=True):
        eventually(lambda chain=chain, n=n: links(deployment, chain)[n] == 1, "it is held")
    unending = [deployment.start(flows.Unending) for _ in range(3)]
    eventually(lambda: goings_on(leaving, "Unending") >= 50, "they are under way")
    leaving.terminate()
    eventually(lambda: "Warm shutdown" in leaving.log(), "the worker is shutting down")
    for chain, n in zip(chains, (10, 11, 12), strict=True):
        deployment.open_gate(f"{chain.run_id}-{n}")
    assert leaving.process.wait(40) == 0
    deployment.worker("heir", FLOWS, pool="asyncio", concurrency=10).wait_ready()
    assert [chain.result(40) for chain in chains] == [30] * 3
    for chain, n in zip(chains, (10, 11, 12), strict=True):
        assert links(deployment, chain) == dict.fromkeys(range(1, 31), 1)
        by_worker = {each["n"]: each["pid"] for each in deployment.effects("link", chain.run_id)}
        assert {by_worker[each] for each in range(1, n + 1)} == {leaving.pid}
    for run in unending:
        deployment.open_gate(run.run_id)
        assert run.result(40) >= 200
        found = deployment.executions(run.run_id)
        assert_committed_once(found)
        assert {each.outcome for each in found} == {"done"}
        assert {each.worker.partition("@")[0] for each in found} == {"leaving", "heir"}
    assert deployment.counter("losses") == 0


def test_a_step_that_kills_an_asyncio_worker_is_found_out_and_the_innocent_finish(deploy: Deploy) -> None:
    deployment = deploy(**WITHOUT_END | {"max_losses": 1})
    ended = threading.Event()

    def supervise() -> None:
        for lives in range(1, 10):
            if ended.is_set():
                return
            worker = deployment.worker(
                f"life {lives}", FLOWS, "support.flows.everyday", pool="asyncio", concurrency=100
            )
            eventually(
                lambda worker=worker: worker.process.poll() is not None or ended.is_set(), "it dies or all is done"
            )

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        beside = [deployment.start(process_flows.HeldOnLoop) for _ in range(3)]
        for handler in beside:
            deployment.await_effects("begun", run_id=handler.run_id)
        suicidal = deployment.start(process_flows.Suicidal)
        for handler in beside:
            deployment.await_effects("dying", run_id=suicidal.run_id)
            deployment.open_gate(handler.run_id)
        chains = [deployment.start(flows.Links, n=30) for _ in range(5)]
        with pytest.raises(
            WorkerLost, match=f"Step 'go' of run '{suicidal.run_id}' was executing when its process died"
        ):
            suicidal.result(40)
        # An innocent may be lost in a crowd more than once before the guilty one is found out; it never fails.
        assert all(handler.result(40) >= 2 for handler in beside)
        assert [handler.result(40) for handler in chains] == [30] * 5
    finally:
        ended.set()
        supervisor.join()
    # Unsuspected, in a crowd, in a smaller one, alone: that is charged.
    assert [each["attempt"] for each in deployment.effects("dying", suicidal.run_id)] == [1, 2, 3, 4]
    for handler in chains:
        assert_committed_once(deployment.executions(handler.run_id))


# -- both colours -----------------------------------------------------------------------------------------------------


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
    told = [event.text for event in handler.events(timeout=40) if isinstance(event, process_flows.Told)]
    assert set(told) == {"on_loop", "plain"}


@pytest.mark.parametrize("ends_by", ["cancelling", "time"])
def test_a_run_that_is_over_stops_the_step_that_was_gone_on_with(lone: Deployment, ends_by: str) -> None:
    handler = flows.Shield(runtime=lone.runtime, timeout=1.0 if ends_by == "time" else None).start()
    lone.await_effects("waiting", run_id=handler.run_id)
    if ends_by == "cancelling":
        assert handler.cancel()
    with pytest.raises(WorkflowTimeoutError if ends_by == "time" else WorkflowCancelledByUser):
        handler.result(40)
    lone.await_effects("cancelled", run_id=handler.run_id)  # the next heartbeat comes in 50 s


def test_no_step_begins_for_good_in_a_run_that_ends_at_this_moment(lone: Deployment) -> None:
    worker = lone.workers[0]

    def ended() -> int:
        return len(re.findall(r"Task Shield.begin\S* succeeded", worker.log()))

    before = ended()
    handlers = []
    for _ in range(100):
        handlers.append(lone.start(flows.Shield))
        if len(handlers) > 5:
            handlers[-6].cancel()  # about when its second step is taken up
    for handler in handlers[-5:]:
        handler.cancel()
    eventually(lambda: ended() - before == 100, "all of them are over")  # the next heartbeat comes in 50 s
    told = {each["run"] for each in lone.effects("cancelled")}
    assert {each["run"] for each in lone.effects("waiting")} <= told
