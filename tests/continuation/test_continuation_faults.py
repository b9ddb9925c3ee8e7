"""Workers that are killed, stopped or terminated while they continue runs locally."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import pytest

from support.eventually import eventually
from support.flows import continuation as flows
from support.flows import everyday as process_flows
from support.processes.continuation import FLOWS, WITHOUT_END, goings_on, links, messages
from support.processes.driving import LONG_LEASES, Deploy, assert_committed_once
from umbel import WorkerLost


def test_a_worker_killed_amid_chains_loses_nothing_and_repeats_only_its_running_steps(deploy: Deploy) -> None:
    deployment = deploy(**WITHOUT_END)
    victim = deployment.worker("victim", FLOWS, pool="asyncio", concurrency=100, log_level="DEBUG").wait_ready()
    held = [deployment.start(flows.Links, n=30, held=[n, 12]) for n in (7, 10)]  # one async and one plain
    for chain, n in zip(held, (7, 10), strict=True):
        eventually(lambda chain=chain, n=n: links(deployment, chain)[n] == 1, "it is held")
    chains = [deployment.start(flows.Links, n=30) for _ in range(20)]
    deployment.await_effects("link", 200)
    victim.kill_group()
    messages_before = messages(victim)
    assert messages_before <= 22  # all but the first steps were continued

    deployment.worker("heir", FLOWS, pool="asyncio", concurrency=100).wait_ready()
    for chain, n in zip(held, (7, 10), strict=True):
        deployment.open_gate(f"{chain.run_id}-{n}")
    for chain in held:  # a suspect's chain goes through the broker, so that the next suspect gets its turn
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
        assert len(lost) <= 1, "only one step of a chain was running"
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


def test_a_terminated_worker_finishes_its_step_and_hands_the_chain_on(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES)  # nothing is redispatched for a minute
    leaving = deployment.worker("leaving", FLOWS, pool="asyncio", concurrency=10, log_level="DEBUG").wait_ready()
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
        # An innocent step may be lost more than once beside others before the guilty one is identified; it never fails.
        assert all(handler.result(40) >= 2 for handler in beside)
        assert [handler.result(40) for handler in chains] == [30] * 5
    finally:
        ended.set()
        supervisor.join()
    # Unsuspected, in the first crowd, in a smaller one, alone: that loss is charged.
    assert [each["attempt"] for each in deployment.effects("dying", suicidal.run_id)] == [1, 2, 3, 4]
    for handler in chains:
        assert_committed_once(deployment.executions(handler.run_id))
