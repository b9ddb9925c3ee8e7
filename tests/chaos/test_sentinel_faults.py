"""A Redis behind Sentinel under load: its primary is killed, or paused together with a sentinel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chaos.concluding import conclude, next_progress, start_workers
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.eventually import eventually
from support.processes.sentinels import Watched
from umbel.orchestration.connection.redis_client import connect
from umbel.workers.embedded.supervisor import Supervisor

pytestmark = [pytest.mark.full_matrix, pytest.mark.timeout(240)]


@pytest.fixture
def watched(tmp_path: Path, supervisor: Supervisor) -> Iterator[Watched]:
    (tmp_path / "watched").mkdir()
    watched = Watched(tmp_path / "watched", supervisor)
    try:
        yield watched
    finally:
        watched.close()


@pytest.fixture
def deployment(deploy_chaos: DeployChaos, watched: Watched, seed: int) -> Iterator[ChaosDeployment]:
    deployment = deploy_chaos(watched.url, seed=seed)
    start_workers(deployment)
    yield deployment
    deployment.close()  # before the servers


def started(deployment: ChaosDeployment, watched: Watched, seed: int) -> Load:
    """Start runs, and wait until both servers have them."""
    load = Load(deployment, seed)
    load.start(20, seconds=0.1)
    with connect(watched.url) as client:
        assert client.execute_command("WAIT", 1, 10_000) == 1
    return load


def await_failover(watched: Watched) -> None:
    """Wait until the other server is the primary."""
    eventually(lambda: watched.failed_over_to(watched.ports[1]), "the other server is the primary", seconds=40)


def test_a_primary_that_is_killed_is_replaced_and_no_run_is_lost(
    deployment: ChaosDeployment, watched: Watched, seed: int, report: RecoveryReport
) -> None:
    load = started(deployment, watched, seed)
    watched.kill(watched.ports[0])
    await_failover(watched)
    at = time.monotonic()
    load.start(5, seconds=0.1)
    recovery = next_progress(deployment, at)
    conclude(report, "F43 primary of sentinels killed", load, seed=seed, recovery_seconds=[recovery], is_set_back=True)


def test_a_primary_that_stands_still_with_a_sentinel_is_replaced_and_no_run_is_lost(
    deployment: ChaosDeployment, watched: Watched, seed: int, report: RecoveryReport
) -> None:
    load, still = started(deployment, watched, seed), (watched.sentinel_ports[0], watched.ports[0])
    for port in still:
        watched.pause(port)
    await_failover(watched)
    at = time.monotonic()
    load.start(5, seconds=0.1)
    recovery = next_progress(deployment, at)
    for port in still:
        watched.resume(port)
    eventually(lambda: watched.follows(watched.ports[0]), "it is a replica", seconds=60)
    load.start(5)
    conclude(report, "F44 primary and sentinel still", load, seed=seed, recovery_seconds=[recovery], is_set_back=True)
