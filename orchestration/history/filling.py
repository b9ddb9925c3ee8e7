"""Adds checkpoints to packed history that lacks them, so that no point is far from the checkpoint before it.

A running run gets checkpoints while its history is packed. Where the run was faster than the packing, the stretches
between its checkpoints are replayed once, after they were packed, to add the missing checkpoints.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from ..model.errors import HistoryUnavailable
from ..store.journal import Entry, entries
from ..store.verbs import Store
from .packing import chunks
from .packing.checkpoints import keep_checkpoint, packed
from .rebuild import rebuilding, rebuilt_contents


async def fill(store: Store, run_id: str) -> bool:
    """Add one missing checkpoint to a run's packed history; returns False if there is none to add.

    Stretches in which a fan-out of more than `CHECKPOINT_WORK` events begins are skipped: replaying them and storing
    their checkpoints would cost too much compared with their steps.

    *Promise:* the run itself is not changed. Any number of processes may call this at the same time; the checkpoint is
    one script. A crash leaves at most keys that expire within ten minutes.

    Raises:
        HistoryDamaged: The journal cannot be replayed, or a checkpoint is damaged.
        StoreUnavailable: Redis did not answer.
    """
    most = chunks.most_again(store.settings)
    there = await packed(store, run_id)
    for since, until in there.stretches():
        ends = [end for _, end in there.chunks if since < end <= since + most]
        if until - since <= most or not ends:
            continue
        # Replays as little as possible: what remains must be short enough, or have room for the next checkpoints.
        rest = (until - since - 1) // most * most
        at = next((end for end in ends if until - end <= rest), ends[-1])
        past = [entry async for entry in _between(store, run_id, since, at)]
        if _is_wide(past):
            continue
        try:
            async with rebuilding(store, run_id, past, there.checkpoints.get(since)) as (scratch, calls):
                await scratch.do_again(calls)
                await keep_checkpoint(store, past[-1], await rebuilt_contents(scratch), run_id)
        except HistoryUnavailable:
            return False  # entries of an older release, or without values
        return True
    return False


async def _between(store: Store, run_id: str, since: int, at: int) -> AsyncIterator[Entry]:
    async for entry in entries(store, run_id, after=since):
        yield entry
        if entry.seq >= at:
            return


def _is_wide(past: Iterable[Entry]) -> bool:
    return any(entry.kind == "stage" and entry.arguments.get(b"size", 0) > chunks.CHECKPOINT_WORK for entry in past)
