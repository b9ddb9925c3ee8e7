"""One Redis for all tests of the console; what they keep there is apart by key prefix."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from console_driving import Keep

from umbel import Settings
from umbel.tasks.runtime import Runtime
from umbel.workers.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis."""
    with EmbeddedRedis.temporary() as server:
        yield server.url


@pytest.fixture
def runtime(redis_url: str) -> Iterator[Runtime]:
    """A deployment of its own, without workers."""
    made = Runtime(Settings(redis_url=redis_url, key_prefix=f"c{secrets.token_hex(5)}"))
    yield made
    made.close()


@pytest.fixture
def keep(runtime: Runtime) -> Keep:
    """Makes runs of any status, by the hundred: the record and the index, nothing to execute."""
    store = runtime.store

    def make(run_id: str, status: str = "completed", *, workflow: str = "shop.Order", at: int = 1_000) -> str:
        keys = store.locate(run_id)
        record: dict[str, str | int] = {"status": status, "workflow": workflow, "created_at": at, "live": 0}
        if status != "running":
            record["ended_at"] = at
        store.client.hset(keys["run"], mapping=record)  # type: ignore[arg-type]
        store.client.zadd(keys[f"runs:{status}"], {run_id: at})
        return run_id

    return make
