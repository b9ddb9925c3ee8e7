"""Runs that wait for a human: they survive every process, are answered once, and use no process while they wait."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from support.eventually import eventually
from support.flows import waiting as flows
from support.processes.driving import Deploy, Deployment, assert_committed_once
from umbel import WorkflowRuntimeError
from umbel.tasks.client.runtime import Runtime
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor


def waiters(deployment: Deployment, run_ids: Iterable[str]) -> int:
    """Return how many waits these runs have in total."""
    store = deployment.store
    pipeline = store.client.pipeline(transaction=False)
    for run_id in run_ids:
        pipeline.hlen(store.locate(run_id)["waiters"])
    return sum(pipeline.execute())


def test_200_waiting_runs_outlive_the_death_of_every_process_and_are_answered_once(
    deploy: Deploy, supervisor: Supervisor, tmp_path: Path
) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "redis", supervisor=supervisor) as server:
        deployment = deploy(server.url)
        workers = [deployment.worker(name, "support.flows.waiting") for name in ("one", "two")]
        run_ids = [deployment.start(flows.Ask, n=n).run_id for n in range(200)]
        eventually(lambda: waiters(deployment, run_ids) == 200, "all runs wait")

        for worker in workers:
            worker.kill_group()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deployment.runtime.close()
        with EmbeddedRedis.in_folder(tmp_path / "redis", supervisor=supervisor) as again:
            assert again.url == server.url
            deployment.runtime = Runtime(deployment.settings)
            handlers = [deployment.runtime.attach(run_id) for run_id in run_ids]
            assert waiters(deployment, run_ids) == 200
            for n, handler in enumerate(handlers[:100]):  # no worker is running when these answers arrive
                handler.send_event(flows.Answer(n=n, text="first"))
                handler.send_event(flows.Answer(n=n, text="second"))
            assert waiters(deployment, run_ids) == 100
            for name in ("three", "four"):
                deployment.worker(name, "support.flows.waiting")
            for n, handler in enumerate(handlers[100:], 100):
                handler.send_event(flows.Answer(n=n, text="first"))
                with suppress(WorkflowRuntimeError):  # the first answer has ended the run already
                    handler.send_event(flows.Answer(n=n, text="second"))

            assert [handler.result(40) for handler in handlers] == [[n, "first"] for n in range(200)]
            for what in ("asked", "resumed"):
                times = Counter(each["run"] for each in deployment.effects(what))
                expected = 1 if what == "resumed" else 2  # a step that waits is executed again from the top
                assert times == dict.fromkeys(run_ids, expected)
            for run_id in run_ids:
                executions = deployment.executions(run_id)
                assert [each.outcome for each in executions] == ["waiting", "done"]
                assert_committed_once(executions[1:])
            deployment.close()


def test_a_waiting_run_holds_no_slot_no_process_and_no_message(deploy: Deploy) -> None:
    deployment = deploy()
    deployment.worker("one", "support.flows.waiting", concurrency=1)
    runs = [deployment.start(flows.Ask, n=n) for n in range(30)]
    branches = deployment.start(flows.AskInBranches, n=30)
    everybody = [branches.run_id, *(run.run_id for run in runs)]
    eventually(lambda: waiters(deployment, everybody) == 60, "all ask, one after the other")

    store, prefix = deployment.store, deployment.settings.key_prefix
    assert [store.active_steps(run_id) for run_id in everybody] == [[]] * 31
    shards = range(deployment.settings.shards)
    indexes = [
        store.keys.in_shard(shard, name) for shard in shards for name in ("unclaimed", "unclaimed_counts", "parked")
    ]
    messages = [f"{prefix}:broker:{name}" for name in (deployment.settings.queue, "unacked", "unacked_index")]
    eventually(lambda: not store.client.exists(*indexes, *messages), "nothing is dispatched, queued or un-acknowledged")
    assert list(store.client.scan_iter(f"{prefix}:*:owner:*", count=1000)) == []
    assert deployment.start(flows.AskNobody, n=7).result(40) == 7  # the only process is free

    for n in reversed(range(30)):
        branches.send_event(flows.Answer(n=n, text="yes"))
        runs[n].send_event(flows.Answer(n=n, text="yes"))
    assert sorted(branches.result(40)) == list(range(30))
    assert [run.result(40) for run in runs] == [[n, "yes"] for n in range(30)]
    assert len(deployment.effects("asked")) == 120
    assert len(deployment.effects("resumed")) == 60


def test_the_second_of_two_answers_is_kept_for_the_next_question(deploy: Deploy) -> None:
    deployment = deploy()
    worker = deployment.worker("one", "support.flows.waiting", concurrency=1)
    handler = deployment.start(flows.AskTwice)
    eventually(lambda: waiters(deployment, [handler.run_id]) == 1, "the first question is put")
    worker.kill_group()

    for text in ("one", "two"):
        handler.send_event(flows.Answer(n=0, text=text))
    deployment.worker("two", "support.flows.waiting", concurrency=1)

    assert handler.result(40) == ["one", "two"]
    asked = [event.n for event in handler.events(types=[flows.Question])]
    assert asked == [1, 2]


def test_a_wait_runs_out_although_nobody_was_alive_at_that_time(deploy: Deploy) -> None:
    deployment = deploy()
    worker = deployment.worker("one", "support.flows.waiting", concurrency=1)
    handler = deployment.start(flows.AskBriefly, seconds=1.0)
    eventually(lambda: waiters(deployment, [handler.run_id]) == 1, "it waits")
    worker.kill_group()

    deployment.worker("two", "support.flows.waiting", concurrency=1)
    assert handler.result(40) == "nobody answered"
    assert len(deployment.effects("gave up")) == 1
