"""Rebuilds the past of a run: replays its journal on scratch keys, through the functions that wrote it.

There is no second implementation of a call. Everything that makes up the run's control state is rebuilt (its work,
queues, slots, joins, open fan-outs, waiters, inbox, state). Published events are read from its stream.
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
from .packing import chunks
from .packing.checkpoints import keep_checkpoint, packed, read_checkpoint, seq_in, writes
from .scratch import Scratch


@asynccontextmanager
async def rebuilt(store: Store, run_id: str, past: list[Entry]) -> AsyncIterator[Scratch]:
    """A run as it was after the last of these entries, on keys that are deleted at the end.

    It is rebuilt from the last checkpoint before. If many entries must be replayed, checkpoints are added on the way.

    *Promise:* the run itself is not changed. A crash leaves keys that expire within ten minutes.

    Raises:
        HistoryUnavailable: Neither the run's beginning nor a checkpoint is kept, or the journal lacks values.
        HistoryDamaged: The journal cannot be replayed, or the checkpoint is damaged.
    """
    since = (await packed(store, run_id)).checkpoint_until(past[-1].seq) if past else None
    async with rebuilding(store, run_id, past, since) as (scratch, calls):
        await _do_again(scratch, calls)
        yield scratch


async def _do_again(scratch: Scratch, calls: list[PastCall]) -> None:
    """Replay all calls. Stores checkpoints at the ends of packed chunks on the way, if there is none nearby."""
    most = chunks.most_again(scratch.store.settings)
    ends = {last for _, last in (await packed(scratch.store, scratch.run_id)).chunks} if len(calls) > most else set()
    done = kept = 0
    for number, call in enumerate(calls, 1):
        if call.entry.seq in ends and number - kept > most - chunks.CHUNK_ENTRIES and number < len(calls):
            await scratch.do_again(calls[done:number])
            done = kept = number
            await keep_checkpoint(scratch.store, call.entry, await rebuilt_contents(scratch), scratch.run_id)
    await scratch.do_again(calls[done:])


@asynccontextmanager
async def rebuilding(
    store: Store, run_id: str, past: list[Entry], since: str | None = None
) -> AsyncIterator[tuple[Scratch, list[PastCall]]]:
    """A scratch run before the first entry or at a checkpoint, and the calls to replay from there.

    Promise and errors as `rebuilt`.

    Args:
        store: The deployment.
        run_id: The run.
        past: Its entries.
        since: Name of the checkpoint to begin at.
    """
    then = await read_checkpoint(store, run_id, since) if since else None
    begins_after = seq_in(since) if since and then else 0
    if not past or past[0].seq > begins_after + 1:
        first = past[0].seq if past else 0
        raise HistoryUnavailable(
            f"The history of run {run_id!r} is kept only from entry {first} on, without a checkpoint to rebuild it "
            "from. What came before was removed because it had become too large (UMBEL_JOURNAL_MAX_BYTES, "
            "UMBEL_JOURNAL_MAX_ENTRIES) or too old (UMBEL_HISTORY_KEEP)."
        )
    calls = [past_call(entry) for entry in past if entry.seq > begins_after]
    scratch = Scratch(store, run_id)
    try:
        base = writes(then, scratch.keys) if then else await _base_of_state(store, run_id, past, scratch.keys)
        await scratch.put(base)
        yield scratch, calls
    finally:
        await scratch.drop()


def begins_with_version(past: list[Entry]) -> int | None:
    """The state version that a run begins with; None while it waits for its turn in its session."""
    for entry in past:
        if entry.kind == "state":
            return int(entry.about["v"]) - 1
        if b"turn" in entry.arguments or (entry.kind == "start" and b"waits" not in entry.arguments):
            return int(entry.about["v"])
    return None


async def version_at_turn(store: Store, run_id: str) -> int | None:
    """The state version that a run began with, also if it waited for its turn first; None if it has not had its turn.

    Entries before the turn do not tell it: other runs of the session write to the state meanwhile.
    """
    async for entry in entries(store, run_id):
        if (version := begins_with_version([entry])) is not None:
            return version
    return None


async def _base_of_state(store: Store, run_id: str, past: list[Entry], keys: RunKeys) -> list[tuple[object, ...]]:
    """The commands for the state that existed before the run: that of earlier runs of the same session."""
    version = begins_with_version(past)
    if version is None:  # the past ends before the run's turn
        version = await version_at_turn(store, run_id)
    if not version:
        return []
    name = f"state:{state_id_of(run_id)}"
    fields = await StateHash(store, run_id, state_id_of(run_id)).read_version(version)
    if fields is None:
        raise HistoryUnavailable(
            f"The state that run {run_id!r} began with (version {version}) is no longer kept: later runs have "
            "written to it too often."
        )
    commands: list[tuple[object, ...]] = [("HSET", keys[f"{name}:versions"], "v", version)]
    return commands + ([("HSET", keys[name], *(part for pair in fields.items() for part in pair))] if fields else [])


async def past_entries(store: Store, run_id: str, *, through: str = "+") -> list[Entry]:
    """The entries of a run up to and including one of them."""
    return [entry async for entry in entries(store, run_id, through=through)]


async def rebuilt_contents(scratch: Scratch) -> Contents:
    """The contents of a rebuilt run's keys."""
    return await contents(scratch.store, scratch.run_id, scratch.keys)
