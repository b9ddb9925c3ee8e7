"""One real Redis for the test session; every test has its own key prefix and deletes only keys under it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import operator_at
from support.store.checks import checked_store
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.redis_server import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis: TEST_REDIS_URL if set, else the bundled server."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield given
        return
    with EmbeddedRedis.temporary(append_only=False, binary=find_server(search_path="")) as server:
        yield server.url


@pytest.fixture(scope="session")
def client(redis_url: str) -> Iterator[Client]:
    """A connection for inspection; no test counts its commands."""
    connection = operator_at(redis_url)
    yield connection
    connection.close()


@pytest.fixture
def prefix(client: Client) -> Iterator[str]:
    """This test's own key prefix."""
    name = f"t{secrets.token_hex(6)}"
    yield name
    keys = list(client.scan_iter(match=f"{name}:*", count=1000))
    for start in range(0, len(keys), 1000):
        client.unlink(*keys[start : start + 1000])


@pytest.fixture
def settings(redis_url: str, prefix: str) -> Settings:
    """Settings with periods so long that nothing becomes due by itself; tests make due what they need."""
    return Settings(
        redis_url=redis_url,
        key_prefix=prefix,
        shards=2,
        lease_seconds=600,
        heartbeat_seconds=200,
        redispatch_seconds=600,
        redispatch_max_seconds=20_000,
    )


@pytest.fixture
def store(client: Client, settings: Settings) -> Store:
    """A store that checks every script: a key that was not passed in KEYS is an error."""
    return checked_store(client, settings)
