"""Redis replies with errors: full, a replica, loading, busy, without scripts, not saving. Nothing is half applied."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from support.chaos.concluding import ONE_SEED, conclude, next_progress, start_workers
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.eventually import eventually
from support.faults.proxy import Proxy
from support.faults.redis_under_test import RedisUnderTest
from support.faults.refusals import REFUSALS
from umbel import StoreUnavailable
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.workers.embedded.supervisor import Supervisor


def reported(client: Client) -> str:
    """Return the error that Redis reports for a write."""
    try:
        client.set("somebody:elses:key", "1")
    except RedisError as error:
        return f"{type(error).__name__} {error}".upper()
    return ""


#: The start of redis-py's message for each error.
SHOWN = {
    "OOM": "COMMAND NOT ALLOWED",
    "READONLY": "READ ONLY REPLICA",
    "NOREPLICAS": "NOREPLICAS",
    "MISCONF": "MISCONF",
    "BUSY": "BUSY",
}


@pytest.mark.full_matrix
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
def test_what_redis_refuses_for_a_while_is_waited_out_and_nothing_is_half_applied(
    deploy_chaos: DeployChaos,
    redis_server: RedisUnderTest,
    seed: int,
    report: RecoveryReport,
    refusal: Callable[..., object],
) -> None:
    deployment = deploy_chaos(seed=seed)
    start_workers(deployment)
    load = Load(deployment, seed)
    load.start(20, seconds=0.1)
    await_effects(deployment, 20)
    client = connect(redis_server.url)
    chosen = random.Random(seed)
    with refusal(client, redis_server) as word:  # type: ignore[attr-defined]
        eventually(lambda: SHOWN[word] in reported(client), f"Redis answers {word}")
        impatient = deployment.runtime.store
        impatient.patience_seconds = 0.2
        with pytest.raises(StoreUnavailable, match="umbel was trying for 0.2 s to start run .* try again"):
            load.start(1)
        impatient.patience_seconds = 5.0
        time.sleep(chosen.uniform(0.5, 3.0))  # the duration is part of the test; nothing is waited for
    client.delete("somebody:elses:key")
    at = time.monotonic()
    load.start(5)
    load.await_all()
    conclude(report, f"F29 Redis {word}", load, seed=seed, recovery_seconds=[next_progress(deployment, at)])
    client.close()


def await_effects(deployment: ChaosDeployment, steps: int) -> None:
    """Wait until this many steps have begun."""
    eventually(lambda: len(deployment.effects()) >= steps, f"{steps} steps have begun")


@pytest.mark.full_matrix
def test_scripts_forgotten_in_the_middle_of_everything_are_only_sent_again(
    deploy_chaos: DeployChaos, redis_server: RedisUnderTest, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED)
    start_workers(deployment)
    load = Load(deployment, ONE_SEED)
    load.start(30, seconds=0.02)
    load.answer()
    flushes = 0
    while len(load.ended(list(load.seen))) < len(load.seen):
        deployment.store.client.function_flush()
        flushes += 1
    conclude(report, "F29 Redis NOSCRIPT", load, seed=ONE_SEED)
    assert flushes > 10
    assert deployment.counter("losses") == 0


@pytest.mark.full_matrix
def test_a_redis_that_loads_for_a_while_is_waited_for(
    deploy_chaos: DeployChaos, redis_server: RedisUnderTest, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED)
    start_workers(deployment)
    client = deployment.store.client
    for part in range(10):
        client.eval("for i = 1, 50000 do redis.call('SET', ARGV[1] .. i, 'x') end", 0, f"somebody:elses:{part}:")
    load = Load(deployment, ONE_SEED)
    load.start(20, seconds=0.1)
    await_effects(deployment, 20)
    redis_server.kill()
    redis_server.start()
    at = time.monotonic()
    load.start(5)
    conclude(report, "F29 Redis LOADING", load, seed=ONE_SEED, recovery_seconds=[next_progress(deployment, at)])


@pytest.mark.full_matrix
def test_a_failover_to_a_replica_continues_from_a_consistent_point(
    deploy_chaos: DeployChaos,
    redis_server: RedisUnderTest,
    supervisor: Supervisor,
    tmp_path: Path,
    seed: int,
    report: RecoveryReport,
) -> None:
    replica = RedisUnderTest(tmp_path / "replica", supervisor)
    try:
        with Proxy(redis_server.url) as address:
            following = connect(replica.url)
            primary, _, port = redis_server.url.rpartition(":")
            password = primary.partition("//:")[2].partition("@")[0]
            following.config_set("masterauth", password)
            following.execute_command("REPLICAOF", "127.0.0.1", port.partition("/")[0])
            eventually(lambda: following.info("replication")["master_link_status"] == "up", "the replica follows")
            mine = replica.url.partition("//:")[2].partition("@")[0]
            deployment = deploy_chaos(address.url, seed=seed)
            start_workers(deployment)
            load = Load(deployment, seed)
            load.start(20, seconds=0.1)
            await_effects(deployment, 40)
            # Both take the same password, as servers of one set do.
            following.config_set("requirepass", password)
            load.start(5, seconds=0.1)
            deployment.store.client.wait(1, 5_000)  # wait until both have the started runs
            redis_server.kill()
            address.aim(replica.url)
            address.reset()
            following = connect(replica.url.replace(mine, password))
            following.execute_command("REPLICAOF", "NO", "ONE")
            at = time.monotonic()
            load.start(5)
            load.await_all()
            recovery = [next_progress(deployment, at)]
            conclude(report, "F29 failover", load, seed=seed, recovery_seconds=recovery, is_set_back=True)
            following.config_set("requirepass", mine)
            deployment.close()
    finally:
        replica.close()
