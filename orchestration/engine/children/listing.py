"""The child runs of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ...store.replies import pairs, unpack_raw
from ...store.verbs import Store


async def child_records(store: Store, parent: str) -> AsyncIterator[tuple[str, dict[bytes, Any]]]:
    """Ids and records (see `lua/lib/children.lua`) of a run's children, in no particular order. One may come twice."""
    key, cursor = store.locate(parent)["children"], b"0"
    while True:
        cursor, flat = await store.command("list child runs", "HSCAN", key, cursor, "COUNT", 100)
        for name, raw in pairs(flat).items():
            if b"|" not in name and b"#" not in name:
                yield name.decode(), unpack_raw(raw)
        if cursor == b"0":
            return


async def child_runs(store: Store, parent: str) -> AsyncIterator[str]:
    """Ids of the children that a run has started, each once."""
    seen: set[str] = set()
    async for child_id, child in child_records(store, parent):
        if child_id in seen or b"sp" in child:  # its spec is kept until it has been started
            continue
        # A failed child may never have begun, because another run had the id that was chosen for it.
        if child[b"st"] == b"failed" and b"ke" not in child and await is_of_another(store, parent, child_id):
            continue
        seen.add(child_id)
        yield child_id


async def is_of_another(store: Store, parent: str, run_id: str) -> bool:
    """Whether a run with this id exists that is not a child of `parent`."""
    key = store.locate(run_id)["run"]
    status, of = await store.command("look at a child run", "HMGET", key, "status", "parent")
    return status is not None and of != parent.encode()
