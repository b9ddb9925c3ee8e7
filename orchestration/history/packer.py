"""Decides what to pack and when: runs that ended some time ago, and running runs whose journal is long.

The process that gets the turn does the packing. It changes neither the run nor its published events. Nothing depends on
it: a journal that is never packed only takes more memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..model.errors import RunNotFound, StoreUnavailable
from ..store.journal import Entry
from ..store.replies import pairs
from ..store.verbs import Store
from .filling import fill
from .packing.chunks import checkpoint_run, most_again, pack_run

T = TypeVar("T")

logger = logging.getLogger("umbel.history")

#: Ended runs read per shard, status and turn; and how many are packed at the same time.
BATCH, AT_ONCE = 64, 16
#: A turn ends after this time, because the process has other work. While work is left, the next turn may be longer.
TURN_SECONDS, LONGEST_TURN_SECONDS = 0.25, 1.0
#: Minimum time between turns, across all processes, when nothing is left to pack.
PAUSE_SECONDS = 15.0
#: The same while a running run reaches its next checkpoint earlier than that (entries without a checkpoint have to be
#: replayed to see a point among them), or while checkpoints are still missing.
FAST_PAUSE_SECONDS = 2.0
#: Running runs checked per shard and turn.
RUNNING = 64

_ENDED = ("completed", "failed", "cancelled", "timed_out")


class Packer:
    """Packs the journals of a deployment's runs, one turn at a time."""

    def __init__(self, store: Store) -> None:
        """Args:
        store: The deployment.
        """
        self.store = store
        self._after_ms = round(store.settings.history_pack_after_seconds * 1000)
        self._most_again = most_again(store.settings)
        self._pause_seconds = min(PAUSE_SECONDS, max(self._after_ms / 4000, 0.05))
        self._again_at = self._ended_again_at = 0.0
        self._turn_seconds = TURN_SECONDS
        self._to_fill: dict[str, None] = {}  # runs whose packed history may lack checkpoints, oldest first
        self._passed: dict[int, int] = {}  # shard -> offset of the next running run to look at

    async def turn(self, now: int) -> int:
        """Pack, for a moment, long journals and those of runs that ended long enough ago; returns how many.

        *Promise:* any number of processes may call this at the same time. Each chunk is one script. A crash between two
        leaves a partly packed journal, and the next turn continues there. Checkpoints that were still missing then are
        not added before a point near them is read.

        Args:
            now: Redis time in ms.

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
        done, is_fast = await self._pack_running(began_at)
        looks_for_ended = began_at >= self._ended_again_at
        for (status, shard), ended in (await self._ended(now) if looks_for_ended else {}).items():
            if time.monotonic() - began_at > self._turn_seconds:
                await self.store.command("give up the turn to pack", "DEL", key)
                self._again_at = 0.0
                self._turn_seconds = min(2 * self._turn_seconds, LONGEST_TURN_SECONDS)
                return done
            done += await self._pack(status, shard, ended)
        self._turn_seconds = TURN_SECONDS
        if looks_for_ended:
            self._ended_again_at = began_at + self._pause_seconds
        await self._fill(began_at)
        if (is_fast or self._to_fill) and self._pause_seconds > FAST_PAUSE_SECONDS:
            self._again_at = began_at + FAST_PAUSE_SECONDS
            await self.store.command("shorten the turn to pack", "PEXPIRE", key, round(FAST_PAUSE_SECONDS * 900))
        return done

    async def _fill(self, began_at: float) -> None:
        """Add missing checkpoints in the rest of the turn."""
        while self._to_fill and time.monotonic() - began_at < self._turn_seconds:
            run_id = next(iter(self._to_fill))
            if not await self._safely(fill, run_id):
                del self._to_fill[run_id]

    async def _pack_running(self, began_at: float) -> tuple[int, bool]:
        """Pack long journals among the next `RUNNING` running runs of each shard; the next turn looks at those after.

        Returns how many were packed, and whether a run has so many entries that more must be packed soon.
        """
        keys, shards = self.store.keys, range(self.store.settings.shards)
        asked = [
            ("ZRANGE", keys.in_shard(shard, "runs:running"), first, first + RUNNING - 1)
            for shard in shards
            for first in (self._passed.get(shard, 0),)
        ]
        found = await self.store.batch("look at running runs", *asked)
        self._passed = {
            shard: self._passed.get(shard, 0) + RUNNING
            for shard, some in zip(shards, found, strict=True)
            if len(some) == RUNNING
        }
        run_ids = [run_id.decode() for some in found for run_id in some]
        sizes = await self.store.batch(
            "look at running runs", *(("XLEN", self.store.locate(run_id)["journal"]) for run_id in run_ids)
        )
        done = 0
        for run_id, size in zip(run_ids, sizes, strict=True):
            if (
                size >= self.store.settings.history_checkpoint_every
                and time.monotonic() - began_at < self._turn_seconds
            ):
                await self._pack_one(checkpoint_run, run_id)
                done += 1
        soon = self.store.settings.history_checkpoint_every * FAST_PAUSE_SECONDS / PAUSE_SECONDS
        return done, any(size >= soon for size in sizes)

    async def _ended(self, now: int) -> dict[tuple[str, int], dict[str, int]]:
        """Runs that are due, by status and shard: run -> when it ended."""
        key, shards = self.store.keys.in_shard(0, "packed_until"), range(self.store.settings.shards)
        known = pairs(await self.store.command("see what is packed", "HGETALL", key))
        places = [(status, shard) for status in _ENDED for shard in shards]
        until = now - self._after_ms
        # A recorded time in the future means that Redis's clock was set back since.
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
        if len(ended) == BATCH:  # more runs may have ended in the same millisecond as the last one
            key = self.store.keys.in_shard(shard, f"runs:{status}")
            beside = await self.store.command("look for ended runs", "ZRANGE", key, last, last, "BYSCORE")
            ended = ended | {run_id.decode(): last for run_id in beside}
        run_ids = list(ended)
        for start in range(0, len(run_ids), AT_ONCE):
            some = run_ids[start : start + AT_ONCE]
            await asyncio.gather(*(self._pack_one(pack_run, run_id) for run_id in some))
        key = self.store.keys.in_shard(0, "packed_until")
        await self.store.command("note what is packed", "HSET", key, f"{status}:{shard}", last)
        return len(run_ids)

    async def _pack_one(self, act: Callable[[Store, str], Awaitable[Entry | None]], run_id: str) -> None:
        last = await self._safely(act, run_id)
        if last is not None and last.seq > self._most_again and self.store.settings.history == "full":
            self._to_fill[run_id] = None

    async def _safely(self, act: Callable[[Store, str], Awaitable[T]], run_id: str) -> T | None:
        """Log a failure and continue: a run that cannot be packed must not prevent the others from being packed."""
        try:
            return await act(self.store, run_id)
        except StoreUnavailable:
            raise
        except RunNotFound:
            return None  # deleted meanwhile
        except Exception:
            logger.exception("the journal of run %s was not compressed", run_id, extra={"action": "pack_error"})
            return None
