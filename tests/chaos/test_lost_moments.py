"""A process dies at the worst moments: with a message just fetched, or before or after the dispatch of an outcome."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.chaos.concluding import POOLS, conclude
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.flows import Links
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.eventually import eventually
from support.processes.driving import WorkerUnderTest


def _replace_killed(deployment: ChaosDeployment, pool: str, failpoints: str) -> None:
    """Start a replacement for each worker that a failpoint has killed."""
    for worker in list(deployment.workers):
        if worker.process.poll() is not None:
            assert worker.pid in deployment.killed_by_failpoints(), worker.log()
            deployment.dismiss(worker)
            deployment.worker(f"{worker.name}.", pool=pool, concurrency=POOLS[pool], failpoints=failpoints)


def _is_blocked_on_the_queue(deployment: ChaosDeployment, worker: WorkerUnderTest) -> bool:
    """Return whether a worker's BRPOP waits in Redis."""
    waiting = [each for each in deployment.store.client.client_list() if each["cmd"] == "brpop"]
    return any(each["age"] and "b" in each["flags"] for each in waiting)


@pytest.mark.full_matrix
def test_messages_that_are_lost_with_the_worker_that_fetched_them_are_sent_again(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed)
    [victim] = deployment.workers_at("one", pool="prefork", concurrency=2)
    eventually(lambda: _is_blocked_on_the_queue(deployment, victim), "the worker waits for a message")
    os.kill(victim.pid, signal.SIGSTOP)
    load = Load(deployment, seed)
    queue = f"{deployment.settings.key_prefix}:broker:{deployment.settings.queue}"
    client = deployment.store.client
    lost = load.start_one(Links, 3)
    eventually(lambda: client.llen(queue) == 0, "Redis has handed out the message")
    victim.kill_group()
    deployment.dismiss(victim)
    came_back_at = time.monotonic()
    deployment.workers_at("two", pool="prefork", concurrency=2)
    began_at = deployment.await_effects("begin", run_id=lost)[0]["at"]
    conclude(report, "F6 message lost in BRPOP", load, seed=seed, recovery_seconds=[max(0.0, began_at - came_back_at)])
    assert deployment.counter("redispatches") >= 1


@pytest.mark.parametrize(
    ("fault", "pool", "failpoints"),
    [
        ("F7 killed between commit and publish", "prefork", "commit.after=kill@1/20*4"),
        pytest.param(
            "F7 killed between commit and publish",
            "asyncio",
            "commit.after=kill@1/40*2;push.before=kill@1/40*2",
            marks=pytest.mark.full_matrix,
        ),
        pytest.param(
            "F8 killed after the publish",
            "prefork",
            "dispatch.after=kill@1/20*4",
            marks=pytest.mark.full_matrix,
        ),
        pytest.param("F8 killed after the publish", "asyncio", "push.after=kill@1/8*3", marks=pytest.mark.full_matrix),
    ],
    ids=["before-prefork", "before-asyncio", "after-prefork", "after-asyncio"],
)
def test_a_death_beside_a_publish_loses_nothing_and_repeats_no_outcome(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport, fault: str, pool: str, failpoints: str
) -> None:
    deployment = deploy_chaos(seed=seed)
    most = sum(int(rule.rpartition("*")[2]) for rule in failpoints.split(";"))
    for name in ("one", "two"):
        deployment.worker(name, pool=pool, concurrency=POOLS[pool], failpoints=failpoints)
    load = Load(deployment, seed)
    load.start(40)

    def has_happened() -> bool:
        _replace_killed(deployment, pool, failpoints)
        if len(load.seen) < 300 and load.ended(load.seen):
            load.start(2)
        return len(deployment.killed_by_failpoints()) >= most

    eventually(has_happened, "all deaths have happened", seconds=50)
    _replace_killed(deployment, pool, failpoints)
    conclude(report, fault, load, seed=seed, deaths=deployment.killed_by_failpoints())
