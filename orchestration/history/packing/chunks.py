"""Packing one journal: its entries into compressed chunks, and a checkpoint at the last one if the run is running."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...connection.settings import Settings
from ...snapshots.take import contents
from ...store.journal import Entry, place_of, unpacked
from ...store.packed import pack_chunk
from ...store.verbs import Store
from .checkpoints import Packed, instant_in, keep_checkpoint, name_of, packed

#: A chunk ends after this many entries, or this many bytes of entries.
CHUNK_ENTRIES, CHUNK_BYTES = 500, 1 << 20
#: No checkpoint is made of a run with more live work items than this: the script that reads them would take too long.
CHECKPOINT_WORK = 2_000
#: A larger start command is not stored beside the chunks for run lists; see `run_rows.GLANCE_BYTES`.
START_BYTES = 16 << 10


def most_again(settings: Settings) -> int:
    """The most entries between two checkpoints, or after the last one; with more, checkpoints are added."""
    return 4 * max(settings.history_checkpoint_every, CHUNK_ENTRIES)


async def pack_run(store: Store, run_id: str, *, through: str = "+") -> Entry | None:
    """Pack a run's journal, chunk by chunk; returns the last packed entry.

    *Promise:* each chunk is one script, which changes nothing if the journal has changed since the chunk was made.

    Args:
        store: The deployment.
        run_id: The run.
        through: Id of the last entry to pack. By default all entries are packed, and the run must have ended.
    """
    last = None
    while True:
        page, digest = await asyncio.gather(
            unpacked(store, run_id, CHUNK_ENTRIES),
            store.command("read a journal", "HGET", store.locate(run_id)["packed"], "digest"),
        )
        taken = list(_of_a_chunk(page.entries, through))
        is_all = len(taken) == len(page.entries) < CHUNK_ENTRIES
        has_ended = is_all and through == "+"
        if not taken or not await _put(store, run_id, page.cut, taken, digest, has_ended=has_ended):
            return last  # not taken: nothing left; not put: another process is packing it
        last = taken[-1]
        if is_all or last.entry_id == through:
            return last


async def checkpoint_run(store: Store, run_id: str) -> Entry | None:
    """Pack the journal of a running run, add a checkpoint at its last entry, and drop history that is too old.

    Returns the entry with the checkpoint; None if none was made.

    With `history="summary"` the journal is only packed, because a checkpoint contains values.

    *Promise:* the checkpoint is of a single moment and belongs exactly to the last packed entry; else none is made.
    """
    live = await store.command("look at a run", "HGET", store.locate(run_id)["run"], "live")
    if int(live or 0) > CHECKPOINT_WORK:
        return None
    then = await contents(store, run_id)
    run = then.flat("run")
    if run.get(b"status") != b"running" or b"queued" in run or b"unbegun" in run:
        return None  # the state may be another run's
    last = await pack_run(store, run_id, through=then.journal)
    if last is None or last.entry_id != then.journal:
        return None
    there = await packed(store, run_id)
    keeps = store.settings.history == "full"
    if keeps:
        there.checkpoints[last.seq] = name_of(last)
    goes = max(await _fitting(store, run_id, there), _needless(there, last, store.settings.history_keep))
    drop = [name for end, name in there.names() if end <= goes]
    await keep_checkpoint(store, last, then if keeps else None, run_id, drop)
    return last


def _needless(there: Packed, last: Entry, keep: str) -> int:
    """The entry of the last checkpoint from which everything that must be kept can be rebuilt; 0 if there is none."""
    if keep == "all":
        return 0
    kind, _, number = keep.rpartition(":")
    if kind:
        wanted = [seq for seq in there.checkpoints if seq <= last.seq - int(number)]
    else:
        since = last.at - float(number) * 1000
        wanted = [seq for seq, name in there.checkpoints.items() if instant_in(name) <= since]
    return max(wanted, default=0)


async def _fitting(store: Store, run_id: str, there: Packed) -> int:
    """The last entry of the history that exceeds the limit of entries or memory; 0 if none does."""
    key, settings = store.locate(run_id)["packed"], store.settings
    newest_first = [(first, end) for first, end in reversed(there.chunks)]
    asked = (("HSTRLEN", key, f"{first}-{end}") for first, end in newest_first)
    sizes = await store.batch("read a journal", *asked)
    used = 0
    for (first, end), size in zip(newest_first, sizes, strict=True):
        used += size
        if used > settings.journal_max_bytes or there.chunks[-1][1] - first >= settings.journal_max_entries:
            return end
    return 0


def _of_a_chunk(entries: Iterable[Entry], through: str) -> Iterator[Entry]:
    size = 0
    for entry in entries:
        if through != "+" and place_of(entry.entry_id) > place_of(through):
            return
        yield entry
        size += entry.size
        if size > CHUNK_BYTES:
            return


async def _put(
    store: Store, run_id: str, cut: int, taken: Sequence[Entry], before: bytes | None, *, has_ended: bool
) -> bool:
    first, last = taken[0], taken[-1]
    chunk, stored = pack_chunk(
        first.seq, [each.raw for each in taken], before or b"", store.settings.history_compression
    )
    ms, _, number = last.entry_id.partition("-")
    about: dict[str, Any] = {}
    if first.seq == 1:
        start = first.fields.get(b"c", b"") if first.kind == "start" else b""
        about = {"size": len(start), "start": start if len(start) <= START_BYTES else None}
    reply = await store.verb(
        "pack",
        run_id,
        cut=cut,
        first=first.entry_id,
        next=f"{ms}-{int(number) + 1}",
        name=chunk.name,
        before=before,
        digest=chunk.digest,
        body=stored,
        extra={"copy": store.locate(run_id).stem + "copy"} if has_ended else {},
        **about,
    )
    return bool(reply[0] == b"packed")
