"""Trimming the indexes of ended runs: names of runs that are no longer stored are removed."""

from __future__ import annotations

from ..connection.failpoints import failpoint
from ..store.asks import Command
from ..store.verbs import Store

#: Names checked together; and how many pages of runs that are all kept end a pass over an index.
_PAGE, _PAGES = 500, 4

_STATUSES = ("completed", "failed", "cancelled", "timed_out")


class Trimming:
    """Removes runs whose keys have expired from the indexes.

    A run may be kept longer than the settings say, so each run past its retention is checked. The cost of a pass does
    not grow with the number of kept runs: the next pass begins behind those that this one found.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, int] = {}  # index -> how many at its beginning to skip

    async def trim(self, now: int) -> None:
        """One pass.

        *Promise:* a run that is kept stays listed, but a process of an earlier release does not check that. What a
        crash leaves is removed by the next pass.
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
        """Remove those of these runs that are no longer stored; returns how many."""
        asked: list[Command] = [("EXISTS", self._store.locate(run_id)["run"]) for run_id in runs]
        kept = await self._store.batch("look for kept runs", *asked) if asked else []
        over = [run_id for run_id, is_kept in zip(runs, kept, strict=True) if not is_kept]
        self._kept[index] = self._kept.get(index, 0) + len(runs) - len(over)
        if over:
            await self._store.command("trim an index", "ZREM", index, *over)
        return len(over)
