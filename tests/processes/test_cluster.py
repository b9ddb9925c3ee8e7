"""Redis Cluster: three primaries with a replica each keep the runs, a plain Redis is the broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.flows import everyday as flows
from support.processes.clusters import ClusterUnderTest
from support.processes.driving import QUICK, Deploy, Deployment
from umbel.workers.embedded.supervisor import Supervisor

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    with Supervisor() as supervisor:
        cluster = ClusterUnderTest(tmp_path_factory.mktemp("cluster"), supervisor, replicated=True)
        yield cluster
        cluster.close()


@pytest.fixture(scope="module")
def served(cluster: ClusterUnderTest, deploy_for_module: Deploy, durable_redis_url: str) -> Deployment:
    deployment = deploy_for_module(cluster.url, broker_url=durable_redis_url, **QUICK)
    deployment.worker("one").wait_ready()
    return deployment


def test_runs_of_all_shards_go_from_start_to_end(served: Deployment) -> None:
    chains = [served.start(flows.Chain, n=n, seconds=0.0) for n in range(20)]
    assert [handler.result(40) for handler in chains] == [n * n for n in range(20)]
