"""Servers that were running when Redis was emptied agree with those that start afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import httpx
import pytest

from support.http.flows import make_server
from support.store.blocking import store_of
from umbel import Settings
from umbel.tasks.client.runtime import Runtime

Asking = Callable[..., httpx.AsyncClient]


@pytest.fixture
def two(redis_url: str) -> Iterator[list[Runtime]]:
    """The runtimes of two processes of a deployment without workers."""
    settings = Settings(redis_url=redis_url, key_prefix=f"e{secrets.token_hex(5)}")
    made = [Runtime(settings) for _ in range(2)]
    yield made
    empty(made[0])
    for runtime in made:
        runtime.close()


def empty(runtime: Runtime) -> None:
    """Delete everything of the deployment, as FLUSHALL does for all deployments."""
    client = store_of(runtime).client
    if keys := list(client.scan_iter(match=f"{runtime.store.settings.key_prefix}:*")):
        client.delete(*keys)


async def test_servers_agree_on_runs_of_idempotency_keys_and_on_cursors_after_redis_was_emptied(
    asking: Asking, two: list[Runtime]
) -> None:
    before = asking(make_server(two[0]))
    key = {"Idempotency-Key": "same"}
    assert (await before.get("/handlers")).status_code == 200
    lost = await before.post("/workflows/greet/run-nowait", json={}, headers=key)
    assert lost.status_code == 200
    empty(two[0])
    after = asking(make_server(two[1]))

    starts = [await http.post("/workflows/greet/run-nowait", json={}, headers=key) for http in (after, before, after)]

    assert [answer.status_code for answer in starts] == [200] * 3
    assert len({answer.json()["run_id"] for answer in starts}) == 1
    assert (await after.post("/workflows/greet/run-nowait", json={})).status_code == 200
    link = (await before.get("/handlers?limit=1")).links["next"]["url"]
    assert len((await after.get(link)).json()["handlers"]) == 1
