"""A Redis Cluster under load: primaries are killed or paused, slots move; runs continue on the node of their shard."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chaos.concluding import ONE_SEED, conclude, next_progress, start_workers
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.eventually import eventually
from support.faults.redis_under_test import RedisUnderTest
from support.processes.clusters import ClusterUnderTest
from umbel.orchestration.connection.cluster import slot_of
from umbel.workers.embedded.supervisor import Supervisor

pytestmark = [pytest.mark.full_matrix, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(tmp_path: Path, supervisor: Supervisor) -> Iterator[ClusterUnderTest]:
    (tmp_path / "cluster").mkdir()
    cluster = ClusterUnderTest(tmp_path / "cluster", supervisor, replicated=True)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def deployment(
    deploy_chaos: DeployChaos, cluster: ClusterUnderTest, redis_server: RedisUnderTest, request: pytest.FixtureRequest
) -> Iterator[ChaosDeployment]:
    seed = request.getfixturevalue("seed") if "seed" in request.fixturenames else ONE_SEED
    deployment = deploy_chaos(cluster.url, seed=seed, broker_url=redis_server.url)
    start_workers(deployment)
    yield deployment
    deployment.close()  # before the cluster


def slots_of(deployment: ChaosDeployment) -> list[int]:
    """Return the slots of the deployment's shards."""
    keys = deployment.store.keys
    return [slot_of(keys.tag(shard)) for shard in range(deployment.settings.shards)]


def await_copies(cluster: ClusterUnderTest) -> None:
    """Wait until the replicas have all started runs too."""
    for port in cluster.living_primaries():
        assert cluster.await_replicas(port) >= 1


def test_primaries_killed_one_after_the_other_are_replaced_and_no_run_is_lost(
    deployment: ChaosDeployment, cluster: ClusterUnderTest, seed: int, report: RecoveryReport
) -> None:
    load, chosen, recoveries = Load(deployment, seed), random.Random(seed), []
    for _ in range(3):
        load.start(15, seconds=0.1)
        await_copies(cluster)
        slot = chosen.choice(slots_of(deployment))
        killed = cluster.owner_of(slot)
        cluster.kill(killed)
        at = time.monotonic()
        eventually(lambda: cluster.owner_of(slot) != killed, "a replica has the slots")  # noqa: B023
        load.start(5, seconds=0.1)
        recoveries.append(next_progress(deployment, at))
        cluster.start(killed)
        eventually(lambda: cluster.follows(killed), "the killed node is a replica")  # noqa: B023
    conclude(report, "F40 primary of a cluster", load, seed=seed, recovery_seconds=recoveries, is_set_back=True)


def test_a_primary_that_stands_still_for_a_while_is_replaced_and_no_run_is_lost(
    deployment: ChaosDeployment, cluster: ClusterUnderTest, seed: int, report: RecoveryReport
) -> None:
    load = Load(deployment, seed)
    load.start(20, seconds=0.1)
    await_copies(cluster)
    slot = random.Random(seed).choice(slots_of(deployment))
    still = cluster.owner_of(slot)
    cluster.pause(still)
    at = time.monotonic()
    eventually(lambda: cluster.owner_of(slot) != still, "a replica has the slots")
    load.start(5, seconds=0.1)
    recovery = next_progress(deployment, at)
    cluster.resume(still)
    eventually(lambda: cluster.follows(still), "it is a replica")
    load.start(5)
    conclude(report, "F41 primary stands still", load, seed=seed, recovery_seconds=[recovery], is_set_back=True)


def test_slots_that_move_under_load_interrupt_nothing_for_long_and_lose_nothing(
    deployment: ChaosDeployment, cluster: ClusterUnderTest, seed: int, report: RecoveryReport
) -> None:
    load, chosen = Load(deployment, seed), random.Random(seed)
    for number, slot in enumerate(chosen.sample(slots_of(deployment), 6)):
        load.start(8, seconds=0.05)
        source = cluster.owner_of(slot)
        move = cluster.move_whole if number % 2 else cluster.move
        move(slot, source, chosen.choice([port for port in cluster.living_primaries() if port != source]))
    conclude(report, "F42 slot moves", load, seed=seed)


#: How long a node is away in the tests below, in seconds: thirty times the lease.
MINUTE = 60.0


@pytest.mark.parametrize("away", ["killed", "stands still"])
def test_runs_go_on_while_a_primary_is_away_for_a_minute_and_it_comes_back_as_a_replica(
    deployment: ChaosDeployment, cluster: ClusterUnderTest, report: RecoveryReport, away: str
) -> None:
    leave, come_back = (cluster.kill, cluster.start) if away == "killed" else (cluster.pause, cluster.resume)
    load = Load(deployment, ONE_SEED)
    load.start(20, seconds=0.1)
    await_copies(cluster)
    slot = slots_of(deployment)[0]
    node = cluster.owner_of(slot)
    leave(node)
    at = time.monotonic()
    eventually(lambda: cluster.owner_of(slot) != node, "a replica has the slots")
    while time.monotonic() < at + MINUTE:
        started = load.start(5, seconds=0.1)
        load.answer()
        eventually(lambda: len(load.ended(started)) == 5, "runs end while the node is away")  # noqa: B023
    come_back(node)
    eventually(lambda: cluster.follows(node), "it is a replica")
    load.start(5)
    recovery = [next_progress(deployment, at)]
    conclude(report, f"F44 primary {away}, a minute", load, seed=ONE_SEED, recovery_seconds=recovery, is_set_back=True)


def test_runs_of_a_primary_that_nothing_replaces_wait_for_it_a_minute_and_the_others_go_on(
    deployment: ChaosDeployment, cluster: ClusterUnderTest, report: RecoveryReport
) -> None:
    node = cluster.owner_of(slots_of(deployment)[0])
    replica = cluster.replica_of(node)
    cluster.kill(replica)
    load = Load(deployment, ONE_SEED)
    runs = load.start(30, seconds=0.3)
    load.answer()
    keys = deployment.store.locate
    elsewhere = [run for run in runs if cluster.owner_of(slot_of(keys(run)["run"])) != node]
    assert 0 < len(elsewhere) < len(runs)
    cluster.pause(node)
    at = time.monotonic()
    eventually(lambda: time.monotonic() > at + MINUTE, "a minute is over", MINUTE * 2)
    assert load.ended(elsewhere)
    back = time.monotonic()
    cluster.resume(node)
    cluster.start(replica)
    eventually(lambda: cluster.follows(replica), "it has a replica again")
    load.start(5)
    recovery = [next_progress(deployment, back)]
    conclude(report, "F45 primary and replica away, a minute", load, seed=ONE_SEED, recovery_seconds=recovery)
