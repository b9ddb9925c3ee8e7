"""Whose turn it is to pack: some time after a run has ended, and while it runs whenever its journal has many entries.

The process whose turn it is does it. What was published and the run itself stay as they are. Nothing waits for it: a
run whose journal is never packed only takes more memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ...model.errors import RunNotFound, StoreUnavailable
from ...store.replies import pairs
from ...store.verbs import Store
from .chunks import checkpoint_run, pack_run

logger = logging.getLogger("umbel.history")

#: Ended runs looked at per shard, status and turn; so many are packed at the same time.
BATCH, AT_ONCE = 64, 16
#: A turn ends after so many seconds: the process has other work. While not all is packed, the next one may last longer.
TURN_SECONDS, LONGEST_TURN_SECONDS = 0.25, 1.0
#: Turns of all processes are at least so far apart while there is nothing left to pack.
PAUSE_SECONDS = 15.0
#: Running runs looked at per shard and turn.
RUNNING = 64

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
        self._turn_seconds = TURN_SECONDS
        self._passed: dict[int, int] = {}  # shard -> how many running runs were looked at before

    async def turn(self, now: int) -> int:
        """Pack journals of runs that ended long enough ago or have long ones, for a moment; returns of how many.

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
        done = await self._pack_running(began_at)
        for (status, shard), ended in (await self._ended(now)).items():
            if time.monotonic() - began_at > self._turn_seconds:
                await self.store.command("give up the turn to pack", "DEL", key)
                self._again_at = 0.0
                self._turn_seconds = min(2 * self._turn_seconds, LONGEST_TURN_SECONDS)
                return done
            done += await self._pack(status, shard, ended)
        self._turn_seconds = TURN_SECONDS
        return done

    async def _pack_running(self, began_at: float) -> int:
        """Look at some running runs, in the next turn at those behind them."""
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
                await self._safely(checkpoint_run, run_id)
                done += 1
        return done

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
            some = run_ids[start : start + AT_ONCE]
            await asyncio.gather(*(self._safely(pack_run, run_id) for run_id in some))
        key = self.store.keys.in_shard(0, "packed_until")
        await self.store.command("note what is packed", "HSET", key, f"{status}:{shard}", last)
        return len(run_ids)

    async def _safely(self, act: Callable[[Store, str], Awaitable[object]], run_id: str) -> None:
        """What cannot be packed stays as it is: it must not keep others from being packed."""
        try:
            await act(self.store, run_id)
        except StoreUnavailable:
            raise
        except RunNotFound:
            return  # deleted meanwhile
        except Exception:
            logger.exception("the journal of run %s was not packed", run_id, extra={"action": "pack_error"})
