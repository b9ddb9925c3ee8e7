"""The function libraries in Redis: one for each version of umbel that has used it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from ...orchestration.engine.worker_directory import SeenWorker
from ...orchestration.store.scripts import LIBRARY_PREFIX, library
from ...orchestration.store.verbs import Store


async def loaded_libraries(store: Store) -> list[str]:
    """Names of umbel's libraries in Redis, of all deployments on it."""
    replies = await store.everywhere("list libraries", "FUNCTION", "LIST", "LIBRARYNAME", f"{LIBRARY_PREFIX}*")
    return sorted({_fields(each)[b"library_name"].decode() for found in replies for each in found})


async def unused_libraries(store: Store, workers: Iterable[SeenWorker]) -> list[str]:
    """Libraries that neither this process nor an announced worker uses. Other deployments may use them."""
    used = {library().name, *(worker.library for worker in workers)}
    return [name for name in await loaded_libraries(store) if name not in used]


async def remove_libraries(store: Store, names: Iterable[str]) -> list[str]:
    """Remove libraries, and return the names of those that existed.

    *Promise:* harmless at any time. A process that uses one of them loads it again with its next script.
    """
    removed = sorted(set(names) & set(await loaded_libraries(store)))
    for name in removed:
        with suppress(ResponseError):  # a cluster node does not have it, or it was removed concurrently
            await store.everywhere("remove a library", "FUNCTION", "DELETE", name)
    return removed


def _fields(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
