"""`umbel doctor` on a Redis Cluster of which one primary is full or silent: it says which one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.processes.clusters import ClusterUnderTest
from umbel import Settings
from umbel.orchestration.connection.cluster import slot_of
from umbel.orchestration.connection.keys import Keys
from umbel.workers.celery_app.app import create_app
from umbel.workers.doctor.examine import examine
from umbel.workers.doctor.redis_rules import Finding
from umbel.workers.embedded.supervisor import Supervisor


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    with Supervisor() as supervisor:
        cluster = ClusterUnderTest(tmp_path_factory.mktemp("cluster"), supervisor)
        yield cluster
        cluster.close()


@pytest.fixture
def primary_of_runs_alone(cluster: ClusterUnderTest) -> int:
    """The port of a primary that has shards, but not shard 0, where workers announce themselves."""
    first = cluster.owner_of(slot_of(Keys().in_shard(0, "workers")))
    return next(port for port in cluster.primaries if port != first)


def examined(cluster: ClusterUnderTest, broker_url: str) -> list[Finding]:
    settings = Settings(redis_url=cluster.url, broker_url=broker_url)
    return examine(settings, create_app(settings))


def test_workers_are_judged_although_a_primary_without_their_directory_is_full(
    cluster: ClusterUnderTest, primary_of_runs_alone: int, durable_redis_url: str
) -> None:
    cluster.ask(primary_of_runs_alone, "CONFIG", "SET", "maxmemory", "1")
    found = examined(cluster, durable_redis_url)
    cluster.ask(primary_of_runs_alone, "CONFIG", "SET", "maxmemory", "0")

    [memory, redis] = [each.text for each in found if each.level == "danger"]
    assert memory.startswith(f"127.0.0.1:{primary_of_runs_alone}: ")
    assert "is full" in redis
    assert "runs in its shards wait" in redis
    assert "No live worker: runs wait." in [each.text for each in found]


def test_a_primary_that_is_silent_is_named(
    cluster: ClusterUnderTest, primary_of_runs_alone: int, durable_redis_url: str
) -> None:
    cluster.pause(primary_of_runs_alone)
    try:
        [danger] = [each for each in examined(cluster, durable_redis_url) if each.level == "danger"]
    finally:
        cluster.resume(primary_of_runs_alone)

    assert f"127.0.0.1:{primary_of_runs_alone} is silent" in danger.text
