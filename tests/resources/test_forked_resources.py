"""A pool child never uses a connection that was created before the fork."""

from __future__ import annotations

from support.flows import resources as flows
from support.processes.driving import LONG_LEASES, Deploy


def test_each_pool_child_makes_resources_of_its_own_once(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES)
    worker = deployment.worker("forking", "support.flows.resources", pool="prefork", concurrency=2)
    worker.wait_ready()

    used = deployment.start(flows.Connected, n=20).result(40)

    assert len(used) == 20
    for pid, made_in, numbers in used:
        assert pid != worker.process.pid
        assert made_in == [pid, pid]
        assert sorted(numbers) == [3, 4]  # the main process created 1 and 2, before the fork
