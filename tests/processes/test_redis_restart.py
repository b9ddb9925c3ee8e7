"""Redis is killed in mid-run and started again on its append-only file: runs go on, in the same processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import process_flows as flows
from process_driving import Deploy, assert_committed_once, descendants

from umbel.workers.embedded import EmbeddedRedis
from umbel.workers.watchdog import Watchdog


def test_runs_outlive_a_killed_redis_and_so_do_the_worker_processes(
    deploy: Deploy, watchdog: Watchdog, tmp_path: Path
) -> None:
    with EmbeddedRedis.in_folder(tmp_path / "redis", watchdog=watchdog) as server:
        deployment = deploy(server.url)
        workers = [deployment.worker("one"), deployment.worker("two")]
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
        with EmbeddedRedis.in_folder(tmp_path / "redis", watchdog=watchdog) as again:
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
