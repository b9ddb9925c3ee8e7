"""A worker warns at startup about Redis settings that can lose data, and works nevertheless."""

from __future__ import annotations

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import Deploy
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor


def test_a_worker_on_a_redis_that_loses_data_says_so_and_how_to_fix_it(deploy: Deploy, supervisor: Supervisor) -> None:
    with EmbeddedRedis.temporary(append_only=False, supervisor=supervisor) as server:
        deployment = deploy(server.url)
        deployment.store.client.config_set("maxmemory-policy", "allkeys-lru")
        worker = deployment.worker("one", pool="solo").wait_ready()

        for said in (
            "maxmemory-policy is allkeys-lru",
            "The append-only file is off: a restart of the server loses every run",
            "Set `appendonly yes`",
        ):
            eventually(lambda said=said: said in worker.log(), said)
        assert deployment.start(flows.Chain, n=3).result(40) == 9
        deployment.close()


def test_a_worker_on_a_sound_redis_has_nothing_to_say_of_it(deploy: Deploy) -> None:
    deployment = deploy()
    worker = deployment.worker("one", pool="solo").wait_ready()
    assert deployment.start(flows.Chain, n=3).result(40) == 9
    for word in ("append", "maxmemory", "replica"):
        assert word not in worker.log()
