"""A Redis that tests may kill, a hub of readers on it, and a run that publishes on demand."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.streams import KillableRedis, OwnHub, Telling, listeners, store_on
from umbel.orchestration.streams.reader import StreamHub


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableRedis]:
    server = KillableRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def store(redis: KillableRedis) -> Iterator[Store]:
    store = store_on(redis.url, f"t{secrets.token_hex(6)}")
    yield store
    store.client.close()


@pytest.fixture
def hub(store: Store) -> Iterator[StreamHub]:
    hub = OwnHub(store, poll_seconds=0.2)
    yield hub
    hub.close()
    eventually(lambda: listeners(store.client) == 0, "the hub has let go of its connection")


@pytest.fixture
def run(store: Store) -> Telling:
    return Telling(store)
