"""Checkpoints where the past was packed without them, so that no point is far from the one before it.

Running runs are packed with checkpoints as they go. Where a run was faster than that, the stretches between are done
again once, after they were packed, and leave checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..connection.settings import Settings
from ..model.errors import HistoryUnavailable
from ..store.journal import Entry, entries
from ..store.verbs import Store
from .packing import chunks
from .packing.checkpoints import packed
from .rebuild import rebuilt


def most_again(settings: Settings) -> int:
    """Above so many entries between two checkpoints, or behind the last one, there are to be more."""
    return 4 * max(settings.history_checkpoint_every, chunks.CHUNK_ENTRIES)


async def fill(store: Store, run_id: str) -> bool:
    """Keep checkpoints in one stretch of what is packed that lacks them; returns whether there may be another one.

    Stretches in which a fan-out of more than `CHECKPOINT_WORK` events begins stay as they are: doing them again, and
    their checkpoints, would cost much beside their steps.

    *Promise:* nothing that the run is is changed, and it may be asked by any number of processes at the same time; each
    checkpoint is one script. A crash leaves the checkpoints until there, and keys that expire within ten minutes.

    Raises:
        HistoryDamaged: The journal cannot be done again, or a checkpoint was damaged.
        StoreUnavailable: Redis did not answer.
    """
    most = most_again(store.settings)
    there = await packed(store, run_id)
    for since, until in there.stretches():
        if until - since <= most:
            continue
        past = await _behind(store, run_id, since, most)
        if _is_wide(past):
            continue
        try:
            async with rebuilt(store, run_id, past):
                pass  # it keeps checkpoints on its way
        except HistoryUnavailable:
            return False  # entries of an older release, or without values
        return len((await packed(store, run_id)).checkpoints) > len(there.checkpoints)
    return False


async def _behind(store: Store, run_id: str, since: int, most: int) -> list[Entry]:
    past: list[Entry] = []
    async for entry in entries(store, run_id, after=since):
        past.append(entry)
        if len(past) == most:
            break
    return past


def _is_wide(past: Iterable[Entry]) -> bool:
    return any(entry.kind == "stage" and entry.arguments.get(b"size", 0) > chunks.CHECKPOINT_WORK for entry in past)
