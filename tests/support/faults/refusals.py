"""A Redis that answers with errors for a while, each in its own way; the contexts yield the word it answers with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis.exceptions import RedisError, ResponseError

from support.eventually import eventually
from support.faults.redis_under_test import RedisUnderTest
from umbel.orchestration.connection.redis_client import Client, connect
from umbel.workers.embedded.configuration import free_port


@contextmanager
def full(client: Client, server: RedisUnderTest) -> Iterator[str]:
    client.config_set("maxmemory", 1)
    yield "OOM"
    client.config_set("maxmemory", 0)


@contextmanager
def a_replica(client: Client, server: RedisUnderTest) -> Iterator[str]:
    client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    yield "READONLY"
    client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def short_of_replicas(client: Client, server: RedisUnderTest) -> Iterator[str]:
    client.config_set("min-replicas-to-write", 1)
    yield "NOREPLICAS"
    client.config_set("min-replicas-to-write", 0)


@contextmanager
def unable_to_save(client: Client, server: RedisUnderTest) -> Iterator[str]:
    (server.folder / "dump.rdb").mkdir()  # where the snapshot file should go
    client.config_set("save", "3600 1")
    with suppress(ResponseError):  # one may be in progress
        client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a snapshot has failed")
    yield "MISCONF"
    client.config_set("save", "")
    (server.folder / "dump.rdb").rmdir()


@contextmanager
def busy(client: Client, server: RedisUnderTest) -> Iterator[str]:
    client.config_set("lua-time-limit", 50)

    def occupy() -> None:
        with suppress(RedisError):
            connect(server.url, timeout_seconds=30).eval("while true do end", 0)

    stranger = threading.Thread(target=occupy, daemon=True)
    stranger.start()
    yield "BUSY"
    eventually(lambda: _killed(client), "the stranger's script is killed")
    stranger.join()
    client.config_set("lua-time-limit", 5000)


def _killed(client: Client) -> bool:
    try:
        client.script_kill()
    except ResponseError as error:
        return str(error).startswith("NOTBUSY")
    return False


#: Those that only writes get.
REFUSALS_OF_WRITES = (full, a_replica, short_of_replicas, unable_to_save)
REFUSALS = (*REFUSALS_OF_WRITES, busy)
