"""Packing journals: some time after a run has ended its entries are compressed, by the process whose turn it is.

What was published and the run itself stay as they are. Nothing waits for it: a run whose journal is never packed only
takes more memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..model.errors import StoreUnavailable
from ..store.journal import Entry, unpacked
from ..store.packed import pack_chunk
from ..store.replies import pairs
from ..store.verbs import Store

logger = logging.getLogger("umbel.history")

#: A chunk ends after so many entries, or bytes of them.
CHUNK_ENTRIES, CHUNK_BYTES = 500, 1 << 20
#: Ended runs looked at per shard, status and turn; so many are packed at the same time.
BATCH, AT_ONCE = 64, 16
#: A turn ends after so many seconds: the process has other work.
TURN_SECONDS = 0.25
#: Turns of all processes are at least so far apart while there is nothing left to pack.
PAUSE_SECONDS = 15.0
#: Start commands above this are not kept beside the chunks, for lists of runs; see `run_rows.GLANCE_BYTES`.
START_BYTES = 16 << 10

_ENDED = ("completed", "failed", "cancelled", "timed_out")


class Packer:
    """Packs what a deployment's ended runs have left, a turn at a time."""

    def __init__(self, store: Store) -> None:
        """Args:
        store: The deployment.
        """
        self.store = store
        self._after_ms = round(store.settings.history_pack_after_seconds * 1000)
        self._pause_seconds = min(PAUSE_SECONDS, max(self._after_ms / 4000, 0.05))
        self._again_at = 0.0

    async def turn(self, now: int) -> int:
        """Pack journals of runs that ended long enough ago, for a moment; returns of how many.

        *Promise:* may be asked by any number of processes at the same time. Each chunk is one script; a crash between
        two leaves a journal of which a part is packed, and the next turn goes on there.

        Args:
            now: The time of Redis, in ms.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        began_at = time.monotonic()
        if not self._after_ms or began_at < self._again_at:
            return 0
        self._again_at = began_at + self._pause_seconds
        key, pause = self.store.keys.in_shard(0, "packing"), max(1, round(self._pause_seconds * 900))
        if not await self.store.command("take the turn to pack", "SET", key, "1", "NX", "PX", pause):
            return 0
        packed = 0
        for (status, shard), ended in (await self._ended(now)).items():
            if time.monotonic() - began_at > TURN_SECONDS:
                await self.store.command("give up the turn to pack", "DEL", key)
                self._again_at = 0.0
                break
            packed += await self._pack(status, shard, ended)
        return packed

    async def _ended(self, now: int) -> dict[tuple[str, int], dict[str, int]]:
        """What is due, by status and shard: run -> when it ended."""
        key, shards = self.store.keys.in_shard(0, "packed_until"), range(self.store.settings.shards)
        known = pairs(await self.store.command("see what is packed", "HGETALL", key))
        places = [(status, shard) for status in _ENDED for shard in shards]
        until = now - self._after_ms
        # If a note is of the future, Redis's clock was set back since.
        since = [min(int(known.get(b"%s:%d" % (status.encode(), shard), b"0")), until) for status, shard in places]
        asked = [
            (
                *("ZRANGE", self.store.keys.in_shard(shard, f"runs:{status}"), f"({least}", until),
                *("BYSCORE", "LIMIT", 0, BATCH, "WITHSCORES"),
            )
            for (status, shard), least in zip(places, since, strict=True)
        ]
        found = await self.store.batch("look for ended runs", *asked)
        return {
            place: {run_id.decode(): int(float(at)) for run_id, at in pairs(flat).items()}
            for place, flat in zip(places, found, strict=True)
            if flat
        }

    async def _pack(self, status: str, shard: int, ended: dict[str, int]) -> int:
        last = max(ended.values())
        if len(ended) == BATCH:  # of those that ended at the last instant there may be more
            key = self.store.keys.in_shard(shard, f"runs:{status}")
            beside = await self.store.command("look for ended runs", "ZRANGE", key, last, last, "BYSCORE")
            ended = ended | {run_id.decode(): last for run_id in beside}
        run_ids = list(ended)
        for start in range(0, len(run_ids), AT_ONCE):
            await asyncio.gather(*map(self._pack_safely, run_ids[start : start + AT_ONCE]))
        key = self.store.keys.in_shard(0, "packed_until")
        await self.store.command("note what is packed", "HSET", key, f"{status}:{shard}", last)
        return len(run_ids)

    async def _pack_safely(self, run_id: str) -> None:
        """What cannot be packed stays as it is: it must not keep others from being packed."""
        try:
            await pack_run(self.store, run_id)
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("the journal of run %s was not packed", run_id, extra={"action": "pack_error"})


async def pack_run(store: Store, run_id: str) -> int:
    """Pack all that a run's journal has, chunk by chunk; returns how many entries that were.

    *Promise:* each chunk is one script, which changes nothing if the journal is not what the chunk was made of.
    """
    packed = 0
    while True:
        page, digest = await asyncio.gather(
            unpacked(store, run_id, CHUNK_ENTRIES),
            store.command("read a journal", "HGET", store.locate(run_id)["packed"], "digest"),
        )
        taken = list(_of_a_chunk(page.entries))
        is_all = len(taken) == len(page.entries) < CHUNK_ENTRIES
        if not taken or not await _put(store, run_id, page.cut, taken, digest, is_all=is_all):
            return packed  # in the latter case another process packs it
        packed += len(taken)
        if is_all:
            return packed


def _of_a_chunk(entries: Iterable[Entry]) -> Iterator[Entry]:
    size = 0
    for entry in entries:
        yield entry
        size += entry.size
        if size > CHUNK_BYTES:
            return


async def _put(
    store: Store, run_id: str, cut: int, taken: Sequence[Entry], before: bytes | None, *, is_all: bool
) -> bool:
    first, last = taken[0], taken[-1]
    chunk, stored = pack_chunk(first.seq, [each.raw for each in taken], before or b"")
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
        extra={"copy": store.locate(run_id).stem + "copy"} if is_all else {},
        **about,
    )
    return bool(reply[0] == b"packed")
