"""The indexes of ended runs: which names go because the runs are not kept any more."""

from __future__ import annotations

from ..connection.failpoints import failpoint
from ..store.asks import Command
from ..store.verbs import Store

#: Names looked at together, and pages of runs that are all kept, in one pass and index.
_PAGE, _PAGES = 500, 4

_STATUSES = ("completed", "failed", "cancelled", "timed_out")


class Trimming:
    """Takes the runs out of the indexes whose keys have expired.

    A run may be kept longer than the settings say, so each one that has ended before is looked for. What a pass costs
    does not grow with their number: the next one begins behind those that it found.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, int] = {}  # index -> how many at its beginning need no look this time

    async def trim(self, now: int) -> None:
        """One pass.

        *Promise:* a run that is kept stays listed, but a process of an earlier release does not look. What a crash
        leaves is taken by the next pass.
        """
        store = self._store
        over = now - round(store.settings.retention_seconds * 1000)
        places = [(shard, status) for shard in range(store.settings.shards) for status in _STATUSES]
        pages = dict.fromkeys((store.keys.in_shard(shard, f"runs:{status}") for shard, status in places), _PAGES)
        failpoint("trim", "before")
        while pages:
            asked: list[Command] = [
                ("ZRANGEBYSCORE", index, "-inf", over, "LIMIT", self._kept.get(index, 0), _PAGE) for index in pages
            ]
            found = dict(zip(pages, await store.batch("look for ended runs", *asked), strict=True))
            for index, runs in found.items():
                if await self._forget(index, [run.decode() for run in runs]) == 0:
                    pages[index] -= 1
                if len(runs) < _PAGE:
                    self._kept[index] = 0
                if len(runs) < _PAGE or not pages[index]:
                    del pages[index]
        failpoint("trim", "after")

    async def _forget(self, index: str, runs: list[str]) -> int:
        """Of these, take out those that are not kept; returns how many they were."""
        asked: list[Command] = [("EXISTS", self._store.locate(run_id)["run"]) for run_id in runs]
        kept = await self._store.batch("look for kept runs", *asked) if asked else []
        over = [run_id for run_id, is_kept in zip(runs, kept, strict=True) if not is_kept]
        self._kept[index] = self._kept.get(index, 0) + len(runs) - len(over)
        if over:
            await self._store.command("trim an index", "ZREM", index, *over)
        return len(over)
