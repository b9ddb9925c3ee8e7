"""Journals that may be packed, and how tests read them."""

from __future__ import annotations

from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun
from umbel.orchestration.history.verify import verify
from umbel.orchestration.store.journal import entries


async def listed(found: Any) -> list[Any]:
    return [each async for each in found]


def all_entries(store: Store, run_id: str) -> list[Any]:
    async def read(store: Any) -> list[Any]:
        return await listed(entries(store, run_id))

    found: list[Any] = store.call(read, store)
    return found


def runs_of(store: Store) -> list[str]:
    pattern = f"{store.settings.key_prefix}:*:run:*:journal"
    return [key.decode().split(":run:")[1].removesuffix(":journal") for key in store.client.scan_iter(pattern)]


def assert_holds(store: Store, run_id: str) -> None:
    found = store.call(verify, store, run_id)
    assert found.holds, "\n".join(map(str, found.differences))


def now(store: Store) -> int:
    seconds, micros = store.client.time()
    return int(seconds * 1000 + micros // 1000)


def is_packed(store: Store, run: DrivenRun) -> bool:
    return store.client.exists(run.keys["packed"]) == 1
