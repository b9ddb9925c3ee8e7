"""Pages of runs for people: newest first, filtered, counted. Reads the indexes there are; nothing is written for it.

A run stands in one index per status: a running one by its start, an ended one by its end. Newest first therefore means
by what happened last, start or end. A filter is applied while walking down the indexes, a bounded stretch at a time:
Redis brings the workflows' names along (`SORT … GET`), so ten thousand runs are looked through in a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import WorkflowRuntimeError
from .store_reads import StoreReads

#: In the order in which people are told of them.
STATUSES = ("running", "completed", "failed", "cancelled", "timed_out")

#: Entries of one index that are looked through at once when there is a filter.
STRETCH = 2_000
#: Runs that are looked through for one page; what is beyond is looked through for the next one.
REACH = 100_000
#: Most runs of one page.
MAX_LIMIT = 500

_FIELDS = ("status", "workflow", "created_at", "ended_at", "parent", "unbegun", "live", "asleep")

#: Where a page ends: (instant in Redis ms, run id); the next one has what sorts below.
Position = tuple[int, str]


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What is asked for.

    Attributes:
        statuses: Only these; empty is any.
        workflows: Only these workflow names; empty is any.
        search: Only where this is part of the run's id or of the workflow's name, in any case.
        limit: Most runs of the page.
        cursor: `RunPage.cursor` of the page before.
    """

    statuses: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    search: str = ""
    limit: int = 50
    cursor: str | None = None

    @property
    def has_filter(self) -> bool:
        """Whether runs have to be looked at one by one."""
        return bool(self.workflows or self.search)


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One row. Instants are Redis time in ms.

    Attributes:
        is_asleep: It goes on, and all that is left of it waits for an event.
        waits_for_place: It is started and has not begun, because its workflow limits how many go on.
    """

    run_id: str
    workflow: str
    status: str
    created_at: int
    ended_at: int | None
    parent: str | None
    is_asleep: bool
    waits_for_place: bool


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs.

    Attributes:
        runs: Newest first.
        counts: Status -> how many runs there are of it, filters aside.
        cursor: For the next page; None when nothing is left. A page may be short, even empty, and still have one:
            then much was looked through and little fitted.
    """

    runs: tuple[ListedRun, ...]
    counts: dict[str, int]
    cursor: str | None


def list_runs(store: StoreReads, query: RunQuery) -> RunPage:
    """One page.

    *Promise:* changes nothing. Asks Redis a handful of times, however many runs there are, and looks through at most
    `REACH` of them. A run that starts or ends meanwhile moves to the top and is on the first page then.

    Raises:
        WorkflowRuntimeError: An unknown status, a limit out of bounds or a cursor that no page has given.
        StoreUnavailable: Redis did not answer.
    """
    _check(query)
    return _Walk(store, query).page()


def _check(query: RunQuery) -> None:
    unknown = [status for status in query.statuses if status not in STATUSES]
    if unknown:
        raise WorkflowRuntimeError(f"No status {unknown[0]!r}. Expected any of {', '.join(STATUSES)}.")
    if not 1 <= query.limit <= MAX_LIMIT:
        raise WorkflowRuntimeError(f"A page has 1 to {MAX_LIMIT} runs, not {query.limit}.")


class _Walk:
    """Down all indexes at once, from the cursor on."""

    def __init__(self, store: StoreReads, query: RunQuery) -> None:
        self.store = store
        self.query = query
        self.search = query.search.casefold()
        statuses = query.statuses or STATUSES
        shards = range(store.settings.shards)
        self.indexes = [store.keys.in_shard(shard, f"runs:{status}") for shard in shards for status in statuses]
        self.patterns = [f"{store.keys.tag(shard)}run:*->workflow" for shard in shards for _ in statuses]

    def page(self) -> RunPage:
        position = None if self.query.cursor is None else _parsed(self.query.cursor)
        counts, offsets = self._counted(position)
        found: list[Position] = []
        looked = 0
        more = True
        while more and len(found) < self.query.limit and looked < REACH:
            stretch, seen, horizon = self._stretch(offsets, position)
            found += stretch
            looked += seen
            more = horizon is not None
            if horizon is not None:
                position = horizon
                _, offsets = self._counted(position)
        left = len(found) > self.query.limit
        found = found[: self.query.limit]
        cursor = _spelled(found[-1]) if left else _spelled(position) if more and position else None
        return RunPage(self._rows(found), counts, cursor)

    def _counted(self, position: Position | None) -> tuple[dict[str, int], list[int]]:
        """Runs of each status, and how many entries of each index stand above the position."""

        def read() -> Any:
            pipe = self.store.client.pipeline(transaction=False)
            for shard in range(self.store.settings.shards):
                for status in STATUSES:
                    pipe.zcard(self.store.keys.in_shard(shard, f"runs:{status}"))
            if position is not None:
                for index in self.indexes:
                    pipe.zcount(index, f"({position[0]}", "+inf")
            return pipe.execute()

        answers = self.store.read("count runs", read)
        cards = self.store.settings.shards * len(STATUSES)
        counts = {status: sum(answers[number : cards : len(STATUSES)]) for number, status in enumerate(STATUSES)}
        return counts, answers[cards:] or [0] * len(self.indexes)

    def _stretch(
        self, offsets: Sequence[int], position: Position | None
    ) -> tuple[list[Position], int, Position | None]:
        """The next entries of all indexes that fit, newest first; how many were looked at; where to go on, if at all.

        Below the newest of the last entries of those indexes that have more, something may be missing: the rest is
        left to the next stretch.
        """
        size = STRETCH if self.query.has_filter else self.query.limit + 1

        def read() -> Any:
            pipe = self.store.client.pipeline(transaction=True)
            for index, pattern, offset in zip(self.indexes, self.patterns, offsets, strict=True):
                pipe.zrange(index, offset, offset + size - 1, desc=True, withscores=True)
                if self.query.has_filter:
                    pipe.sort(index, start=offset, num=size, by="nosort", get=[pattern], desc=True)
            return pipe.execute()

        answers = self.store.read("list runs", read)
        entries: list[tuple[Position, bytes | None]] = []
        horizon: Position | None = None
        looked = 0
        for number in range(len(self.indexes)):
            if self.query.has_filter:
                members, workflows = answers[2 * number], answers[2 * number + 1]
            else:
                members, workflows = answers[number], [None] * len(answers[number])
            placed = [(int(score), run_id.decode()) for run_id, score in members]
            looked += len(placed)
            if len(placed) == size:
                horizon = placed[-1] if horizon is None else max(horizon, placed[-1])
            entries += zip(placed, workflows, strict=True)
        kept = sorted(
            (
                place
                for place, workflow in entries
                if (position is None or place < position)
                and (horizon is None or place >= horizon)
                and self._fits(place[1], workflow)
            ),
            reverse=True,
        )
        return kept, looked, horizon

    def _fits(self, run_id: str, workflow: bytes | None) -> bool:
        if not self.query.has_filter:
            return True
        name = (workflow or b"").decode()
        if self.query.workflows and name not in self.query.workflows:
            return False
        return not self.search or self.search in run_id.casefold() or self.search in name.casefold()

    def _rows(self, found: Sequence[Position]) -> tuple[ListedRun, ...]:
        if not found:
            return ()

        def read() -> Any:
            pipe = self.store.client.pipeline(transaction=False)
            for _, run_id in found:
                pipe.hmget(self.store.locate(run_id)["run"], *_FIELDS)
            return pipe.execute()

        rows = zip(found, self.store.read("read runs", read), strict=True)
        return tuple(_row(run_id, raw) for (_, run_id), raw in rows if raw[0] is not None)


def _row(run_id: str, raw: Sequence[bytes | None]) -> ListedRun:
    status, workflow, created_at, ended_at, parent, unbegun, live, asleep = raw
    return ListedRun(
        run_id=run_id,
        workflow=(workflow or b"").decode(),
        status=(status or b"").decode(),
        created_at=int(created_at or 0),
        ended_at=None if ended_at is None else int(ended_at),
        parent=None if parent is None else parent.decode(),
        is_asleep=status == b"running" and int(live or 0) > 0 and live == asleep,
        waits_for_place=unbegun is not None,
    )


def _spelled(position: Position) -> str:
    return f"{position[0]}.{position[1]}"


def _parsed(cursor: str) -> Position:
    instant, _, run_id = cursor.partition(".")
    if not instant.isdigit() or not instant.isascii() or len(instant) > 15 or len(run_id) > 500:
        raise WorkflowRuntimeError(f"{cursor[:100]!r} is no cursor. Give the one that came with the page before.")
    return int(instant), run_id
