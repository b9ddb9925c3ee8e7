"""Pages of runs for people: newest first, filtered, counted. Uses the existing indexes and writes nothing.

A run is in the index of its status: a running run by its start, an ended one by its end. "Newest first" is therefore by
the latest change, start or end. A filter is applied while walking down the indexes, a bounded stretch at a time.
Scripts read what a list shows of each run, `GLANCED_AT_ONCE` runs at a time, so ten thousand runs are searched in some
40 ms.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ..connection.keys import state_id_of
from ..model.commands import RUN_STATUSES
from ..model.errors import WorkflowRuntimeError
from ..store.replies import RunRecord, pairs, run_record
from ..store.verbs import Store
from .run_rows import RUNNING_AS, SHOWN_STATUSES, ListedRun, Wanted, fitting, read_rows

#: Entries of one index that are read at a time if there is a filter.
STRETCH = 2_000
#: Maximum runs that are searched for one page; the next page continues there.
REACH = 100_000
#: Maximum runs for which one page asks whether they may be seen; the next page continues there.
ASKED = 5_000
#: Maximum runs of one page.
MAX_LIMIT = 500
#: Maximum pages of runs that are read for one page of handlers: a handler may have had many runs.
HANDLER_PAGES = 20

#: Whether the run of this id may be seen.
Readable = Callable[[str], Awaitable[bool]]

#: Where a page ends: (Redis time in ms, run id); the next page has what sorts below.
Position = tuple[int, str]


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list.

    Attributes:
        statuses: Only these; empty for any.
        shown: Only those that lists show like this, see `SHOWN_STATUSES`; empty for any. Use either this or `statuses`.
        workflows: Only these workflow names; empty for any.
        search: Only runs with this text in what a row shows: the run's id, the last part of its workflow's name, its
            input or its error; ignoring case.
        named: Workflows whose displayed name contains `search`.
        since_at: Only runs that started (if running) or ended at this time, in Redis ms, or later.
        with_input: Whether rows include what the runs began with, and why they failed.
        limit: Maximum runs of the page.
        cursor: `RunPage.cursor` of the previous page.
    """

    statuses: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    search: str = ""
    named: tuple[str, ...] = ()
    since_at: int = 0
    with_input: bool = True
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs.

    Attributes:
        runs: Newest first.
        counts: Status -> number of runs, regardless of filters.
        cursor: For the next page; None if nothing is left. A page may be short, even empty, and still have one, if many
            runs were searched and few matched. It may name a run that the page does not show.
    """

    runs: tuple[ListedRun, ...]
    counts: dict[str, int]
    cursor: str | None


async def list_runs(store: Store, query: RunQuery, readable: Readable | None = None) -> RunPage:
    """One page of runs.

    Runs that `readable` refuses are treated as absent. It is asked before the filter, for at most `ASKED` runs, so that
    neither the pages nor where they end depend on the names of refused runs.

    *Promise:* changes nothing. Calls Redis a handful of times, however many runs there are, and searches at most
    `REACH` of them. A run that starts or ends meanwhile moves to the top, so it is then on the first page.

    Raises:
        WorkflowRuntimeError: An unknown status, a limit out of bounds, or a cursor that no page has returned.
        StoreUnavailable: Redis did not answer.
    """
    _check(query)
    return await _Walk(store, query, readable).page()


def _check(query: RunQuery) -> None:
    for given, known in ((query.statuses, RUN_STATUSES), (query.shown, SHOWN_STATUSES)):
        unknown = [status for status in given if status not in known]
        if unknown:
            raise WorkflowRuntimeError(f"Unknown status {unknown[0]!r}. Expected one of {', '.join(known)}.")
    if not 1 <= query.limit <= MAX_LIMIT:
        raise WorkflowRuntimeError(f"A page has 1 to {MAX_LIMIT} runs, not {query.limit}.")


class _Walk:
    """Walks down all indexes at once, from the cursor on."""

    def __init__(self, store: Store, query: RunQuery, readable: Readable | None) -> None:
        self.store = store
        self.readable = readable
        self.may_ask = ASKED
        self.query = query
        self.wanted = Wanted(query.workflows, query.shown, query.search.casefold(), query.named)
        self.has_filter = not self.wanted.is_anything
        kept = dict.fromkeys("running" if each in RUNNING_AS else each for each in query.shown)
        statuses = query.statuses or tuple(kept) or RUN_STATUSES
        self.shards = [shard for shard in range(store.settings.shards) for _ in statuses]
        names = [f"runs:{status}" for _ in range(store.settings.shards) for status in statuses]
        self.indexes = [store.keys.in_shard(shard, name) for shard, name in zip(self.shards, names, strict=True)]

    async def page(self) -> RunPage:
        position = None if self.query.cursor is None else _parsed(self.query.cursor)
        counts, offsets = await self._counted(position)
        found: list[Position] = []
        looked = 0
        more = True
        while more and len(found) < self.query.limit and looked < REACH and self.may_ask > 0:
            stretch, seen, horizon = await self._stretch(offsets, position)
            found += stretch
            looked += seen
            more = horizon is not None
            if horizon is not None:
                position = horizon
                more = position[0] >= self.query.since_at
                _, offsets = await self._counted(position)
        left = len(found) > self.query.limit
        found = found[: self.query.limit]
        cursor = _spelled(found[-1]) if left else _spelled(position) if more and position else None
        rows = await read_rows(self.store, [run_id for _, run_id in found], with_input=self.query.with_input)
        return RunPage(rows, counts, cursor)

    async def _counted(self, position: Position | None) -> tuple[dict[str, int], list[int]]:
        """The number of runs of each status, and how many entries of each index are above the position."""
        asked: list[tuple[Any, ...]] = [
            ("ZCARD", self.store.keys.in_shard(shard, f"runs:{status}"))
            for shard in range(self.store.settings.shards)
            for status in RUN_STATUSES
        ]
        if position is not None:
            asked.extend(("ZCOUNT", index, f"({position[0]}", "+inf") for index in self.indexes)
        answers = await self.store.batch("count runs", *asked)
        cards = self.store.settings.shards * len(RUN_STATUSES)
        counts = {
            status: sum(answers[number : cards : len(RUN_STATUSES)]) for number, status in enumerate(RUN_STATUSES)
        }
        return counts, answers[cards:] or [0] * len(self.indexes)

    async def _stretch(
        self, offsets: Sequence[int], position: Position | None
    ) -> tuple[list[Position], int, Position | None]:
        """The next entries of all indexes that match, newest first; how many were read; where to continue, if anywhere.

        An index with more entries is known only down to the last one read. Below the newest of these, entries may be
        missing: they are left to the next stretch.
        """
        size = STRETCH if self.has_filter else self.query.limit + 1
        pages, horizon = await self._read(offsets, size)
        # An offset leads to the first run of the position's instant. If more than `size` runs share the instant, those
        # below the position are further down.
        while position is not None and horizon is not None and horizon >= position:
            size *= 2
            pages, horizon = await self._read(offsets, size)
        found: dict[int, list[Position]] = {}
        looked = sum(map(len, pages))
        for shard, placed in zip(self.shards, pages, strict=True):
            since = self.query.since_at
            found.setdefault(shard, []).extend(
                each for each in placed if each[0] >= since and (position is None or each < position)
            )
        if horizon is not None:
            found = {shard: [each for each in some if each >= horizon] for shard, some in found.items()}
        if self.readable is not None:
            found, horizon = await self._seen(found, horizon, self.readable)
        if self.has_filter:
            ids = {shard: [run_id for _, run_id in some] for shard, some in found.items() if some}
            fit = await fitting(self.store, self.wanted, ids)
            found = {shard: [each for each in some if each[1] in fit] for shard, some in found.items()}
        return sorted(chain.from_iterable(found.values()), reverse=True), looked, horizon

    async def _read(self, offsets: Sequence[int], size: int) -> tuple[list[list[Position]], Position | None]:
        """Entries of each index, and the newest of the last ones of those indexes that may have more."""
        places = zip(self.indexes, offsets, strict=True)
        found = await self.store.batch(
            "list runs",
            *(("ZREVRANGE", index, offset, offset + size - 1, "WITHSCORES") for index, offset in places),
        )
        pages = [[(int(float(score)), run_id.decode()) for run_id, score in pairs(flat).items()] for flat in found]
        return pages, max((placed[-1] for placed in pages if len(placed) == size), default=None)

    async def _seen(
        self, found: dict[int, list[Position]], horizon: Position | None, readable: Readable
    ) -> tuple[dict[int, list[Position]], Position | None]:
        """The entries that may be seen, by shard, and where to continue: not all may have been asked about."""
        newest = sorted(((each, shard) for shard, some in found.items() for each in some), reverse=True)
        seen: dict[int, list[Position]] = {}
        enough = math.inf if self.has_filter else self.query.limit + 1
        for number, (each, shard) in enumerate(newest, 1):
            self.may_ask -= 1
            if await readable(each[1]):
                seen.setdefault(shard, []).append(each)
                enough -= 1
            if number < len(newest) and (enough == 0 or self.may_ask == 0):
                return seen, each
        return seen, horizon


def _spelled(position: Position) -> str:
    return f"{position[0]}.{position[1]}"


def _parsed(cursor: str) -> Position:
    instant, _, run_id = cursor.partition(".")
    if not instant.isdigit() or not instant.isascii() or len(instant) > 15 or len(run_id) > 500:
        raise WorkflowRuntimeError(
            f"{cursor[:100]!r} is not a cursor. Use the cursor that came with the previous page."
        )
    return int(instant), run_id


async def newest_runs(store: Store, *, status: str | None = None, limit: int = 100) -> list[RunRecord]:
    """The newest runs, of one status or of any, newest first.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    indexes = [
        store.keys.in_shard(shard, f"runs:{each}")
        for shard in range(store.settings.shards)
        for each in ([status] if status else RUN_STATUSES)
    ]
    pages = await store.batch("list runs", *(("ZREVRANGE", key, 0, limit - 1, "WITHSCORES") for key in indexes))
    newest = sorted((each for page in pages for each in pairs(page).items()), key=lambda each: -float(each[1]))
    return await store.runs([run_id.decode() for run_id, _ in newest[:limit]])


@dataclass(frozen=True, slots=True)
class HandlerPage:
    """A page of handlers.

    Attributes:
        records: The current run of each handler.
        cursor: For the next page; None if nothing is left. See `RunPage`.
    """

    records: list[RunRecord]
    cursor: str | None


async def newest_handlers(
    store: Store,
    wanted: Callable[[RunRecord], bool],
    *,
    statuses: Collection[str],
    workflows: Collection[str] = (),
    limit: int,
    cursor: str | None = None,
    readable: Readable | None = None,
) -> HandlerPage:
    """The current run of each handler, newest first: a running run by its start, an ended one by its end.

    *Promise:* reads at most `HANDLER_PAGES` pages of runs, however few handlers they have.

    Args:
        store: The deployment.
        wanted: Whether to list a run.
        statuses: Only runs with these: running, completed, failed, cancelled, timed_out.
        workflows: Only runs of these; empty for any.
        limit: At most this many.
        cursor: `HandlerPage.cursor` of the previous page.
        readable: See `list_runs`.

    Raises:
        WorkflowRuntimeError: No page has returned this cursor.
        StoreUnavailable: Redis did not answer.
    """
    found: list[RunRecord] = []
    if not statuses or limit == 0:
        return HandlerPage(found, None)
    query = RunQuery(tuple(statuses), workflows=tuple(workflows), with_input=False, limit=MAX_LIMIT, cursor=cursor)
    for _ in range(HANDLER_PAGES):
        page = await list_runs(store, query, readable)
        placed = {run.run_id: _spelled(_position(run)) for run in page.runs}
        found += filter(wanted, await _current(store, list(placed)))
        if len(found) >= limit:
            is_last = len(found) == limit and page.cursor is None
            return HandlerPage(found[:limit], None if is_last else placed[found[limit - 1].run_id])
        if page.cursor is None or len(page.runs) < MAX_LIMIT:  # a short page was expensive enough
            return HandlerPage(found, page.cursor)
        query = replace(query, cursor=page.cursor)
    return HandlerPage(found, query.cursor)


def _position(run: ListedRun) -> Position:
    return (run.created_at if run.ended_at is None or run.status == "running" else run.ended_at), run.run_id


async def _current(store: Store, run_ids: list[str]) -> list[RunRecord]:
    """Those of these runs that are the current run of their handler."""
    asked: list[tuple[Any, ...]] = []
    for run_id in run_ids:
        keys = store.locate(run_id)
        asked += [("HGETALL", keys["run"]), ("GET", keys[f"handler:{state_id_of(run_id)}"])]
    found = await store.batch("read runs", *asked)
    return [
        run_record(run_id, raw)
        for run_id, raw, at in zip(run_ids, map(pairs, found[::2]), found[1::2], strict=True)
        if b"created_at" in raw and (at.decode() == run_id if at else "." not in run_id)
    ]


async def oldest_running(store: Store, most: int) -> tuple[ListedRun, ...]:
    """The running runs that started earliest, oldest first.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    pages = await store.batch(
        "list runs",
        *(
            ("ZRANGE", store.keys.in_shard(shard, "runs:running"), 0, most - 1, "WITHSCORES")
            for shard in range(store.settings.shards)
        ),
    )
    started = sorted((float(at), run_id.decode()) for page in pages for run_id, at in pairs(page).items())
    return await read_rows(store, [run_id for _, run_id in started[:most]])
