"""The past of a run, rebuilt: its journal is done again, by the functions that it records, on keys of its own.

There is no second implementation of what a call does. What is rebuilt is all that says where the run is (its work, its
queues, slots, joins, open fan-outs, waiters, inbox, state); what it has published is read from its stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..connection.keys import RunKeys, state_id_of
from ..model.errors import HistoryUnavailable
from ..snapshots.take import Contents, contents
from ..state.redis_hash import StateHash
from ..store.journal import Entry, entries
from ..store.verbs import Store
from .calls import PastCall, past_call
from .scratch import Scratch


@asynccontextmanager
async def rebuilt(store: Store, run_id: str, past: list[Entry]) -> AsyncIterator[Scratch]:
    """A run as it was after the last of these entries, on keys that are deleted at the end.

    *Promise:* nothing of the run is changed. A crash leaves keys that expire within ten minutes.

    Raises:
        HistoryUnavailable: The journal does not begin with the run, or lacks values.
        HistoryDamaged: It cannot be done again.
    """
    async with rebuilding(store, run_id, past) as (scratch, calls):
        await scratch.do_again(calls)
        yield scratch


@asynccontextmanager
async def rebuilding(store: Store, run_id: str, past: list[Entry]) -> AsyncIterator[tuple[Scratch, list[PastCall]]]:
    """The same before the first entry, and the calls to be done again there. Promise and errors as `rebuilt`."""
    if not past or past[0].seq != 1:
        first = past[0].seq if past else 0
        raise HistoryUnavailable(
            f"The history of run {run_id!r} is kept from entry {first} on only; what came before was removed because "
            "it had become too large (UMBEL_JOURNAL_MAX_BYTES, UMBEL_JOURNAL_MAX_ENTRIES)."
        )
    calls: list[PastCall] = [past_call(entry) for entry in past]
    scratch = Scratch(store, run_id)
    try:
        await scratch.put(await _base_of_state(store, run_id, past, scratch.keys))
        yield scratch, calls
    finally:
        await scratch.drop()


def begins_with_version(past: list[Entry]) -> int | None:
    """The version of the state that a run begins with; None while it waits for its turn in its session."""
    for entry in past:
        if entry.kind == "state":
            return int(entry.about["v"]) - 1
        if b"turn" in entry.arguments or (entry.kind == "start" and b"waits" not in entry.arguments):
            return int(entry.about["v"])
    return None


async def _base_of_state(store: Store, run_id: str, past: list[Entry], keys: RunKeys) -> list[tuple[object, ...]]:
    """The state that was there before the run: that of earlier runs of the same session."""
    version = begins_with_version(past)
    if not version:
        return []
    name = f"state:{state_id_of(run_id)}"
    fields = await StateHash(store, run_id, state_id_of(run_id)).read_version(version)
    if fields is None:
        raise HistoryUnavailable(
            f"The state that run {run_id!r} began with (version {version}) is not kept any more: later runs have "
            "written to it too often."
        )
    commands: list[tuple[object, ...]] = [("HSET", keys[f"{name}:versions"], "v", version)]
    return commands + ([("HSET", keys[name], *(part for pair in fields.items() for part in pair))] if fields else [])


async def past_entries(store: Store, run_id: str, *, through: str = "+") -> list[Entry]:
    """The entries of a run up to one of them."""
    return [entry async for entry in entries(store, run_id, through=through)]


async def rebuilt_contents(scratch: Scratch) -> Contents:
    """What the keys of a rebuilt run hold."""
    return await contents(scratch.store, scratch.run_id, scratch.keys)
