"""Redis is killed in mid-run and restarted on its append-only file: runs continue in the same processes."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.flows.continuation import Links
from support.processes.driving import LONG_LEASES, Deploy, assert_committed_once, descendants
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

#: Few enough that the runs take a second.
SLOTS = {"prefork": 2, "asyncio": 50}


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_runs_outlive_a_killed_redis_and_so_do_the_worker_processes(
    deploy: Deploy, supervisor: Supervisor, tmp_path: Path, pool: str
) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "redis", supervisor=supervisor) as server:
        deployment = deploy(server.url)
        workers = [deployment.worker(name, pool=pool, concurrency=SLOTS[pool]) for name in ("one", "two")]
        for worker in workers:
            worker.wait_ready()
        processes = {pid for worker in workers for pid in descendants(worker.pid)}
        held = deployment.start(flows.Held)
        deployment.await_effects("begun", run_id=held.run_id)
        fan = deployment.start(flows.Fan, n=100, seconds=0.02)
        chains = [deployment.start(flows.Chain, n=n, seconds=0.02) for n in range(30)]
        deployment.await_effects("square", 30)

        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with EmbeddedRedis.in_folder(tmp_path / "redis", supervisor=supervisor) as again:
            assert again.url == server.url
            deployment.open_gate(held.run_id)
            assert fan.result(50) == [100, sum(n * n for n in range(100))]
            assert [chain.result(50) for chain in chains] == [n * n for n in range(30)]
            held.result(50)

            assert [worker.process.poll() for worker in workers] == [None, None]
            assert {pid for worker in workers for pid in descendants(worker.pid)} == processes
            for handler in [held, fan, *chains]:
                assert_committed_once(deployment.executions(handler.run_id))
            assert len({each.work_id for each in deployment.executions(fan.run_id) if each.step == "total"}) == 1
            deployment.close()


def test_an_outage_amid_the_commits_of_an_asyncio_worker_repeats_no_step(
    deploy: Deploy, supervisor: Supervisor, tmp_path: Path
) -> None:
    folder = tmp_path / "redis"
    with ExitStack() as servers:
        server = servers.enter_context(EmbeddedRedis.in_folder(folder, supervisor=supervisor))
        deployment = deploy(server.url, lease_seconds=30.0)
        worker = deployment.worker("one", "support.flows.continuation", pool="asyncio", concurrency=100).wait_ready()
        chains = [deployment.start(Links, n=60) for _ in range(20)]
        deployment.await_effects("link", 300)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        servers.enter_context(EmbeddedRedis.in_folder(folder, supervisor=supervisor))
        assert [chain.result(50) for chain in chains] == [60] * 20
        assert worker.process.poll() is None
        for chain in chains:
            found = deployment.executions(chain.run_id)
            assert_committed_once(found)
            assert [each.outcome for each in found] == ["done"] * 61
            assert sorted(each["n"] for each in deployment.effects("link", chain.run_id)) == list(range(1, 61))
        deployment.close()


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_an_outage_that_a_step_notices_is_no_failure_of_the_step(
    deploy: Deploy, supervisor: Supervisor, tmp_path: Path, pool: str
) -> None:
    folder = tmp_path / "redis"
    with ExitStack() as servers:
        server = servers.enter_context(EmbeddedRedis.in_folder(folder, supervisor=supervisor))
        deployment = deploy(server.url)
        worker = deployment.worker("one", pool=pool).wait_ready()
        run = deployment.start(flows.Gathering)
        deployment.await_effects("begun")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deployment.open_gate(run.run_id)
        eventually(lambda: "was cancelled: Redis at" in worker.log(), "the step has given up waiting for Redis")
        servers.enter_context(EmbeddedRedis.in_folder(folder, supervisor=supervisor))
        assert run.result(50) == [1]
        found = deployment.executions(run.run_id)
        assert_committed_once(found)
        assert "failed" not in {each.outcome for each in found}
        deployment.close()


def test_scripts_that_redis_forgets_are_only_sent_again(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES)
    deployment.worker("one", "support.flows.continuation", pool="asyncio", concurrency=100).wait_ready()
    chains = [deployment.start(Links, n=50) for _ in range(20)]
    client = deployment.store.client
    flushes = 0
    while not all(chain.is_done() for chain in chains):
        client.function_flush()
        flushes += 1
    assert flushes > 20
    assert [chain.result(40) for chain in chains] == [50] * 20
    for chain in chains:
        links = [each["n"] for each in deployment.effects("link", chain.run_id)]
        assert sorted(links) == list(range(1, 51))
