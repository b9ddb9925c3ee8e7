"""The list of sessions, page by page: those whose runs have begun or ended most recently first. Read-only.

The sessions of each shard are in an index by the time of their last change. A page walks down all indexes at once, and
its work is limited: after `REACH` names, `ASKED` questions whether one may be seen, or `READ` sessions it ends, and the
next page continues there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from ..model.errors import WorkflowRuntimeError
from ..store.replies import pairs
from ..store.verbs import Store
from .look import SessionRecord, SessionStatus, session_records_of
from .names import session_of

#: Names read at a time, per shard, and sessions read at a time.
PAGE = 200
#: Maximum names that are looked at for one page.
REACH = 20_000
#: Maximum sessions for which one page asks whether they may be seen.
ASKED = 5_000
#: Maximum sessions that are read for one page, and maximum of those it has.
READ, MAX_LIMIT = 2_000, 1_000

#: Whether the session of this name may be seen.
Readable = Callable[[str], Awaitable[bool]]

#: Where a page ends: (Redis time in ms, state id); the next page has what sorts below.
Position = tuple[int, str]


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Which sessions to list.

    Attributes:
        prefix: Only names that begin with this.
        status: Only sessions with this status; None for any.
        limit: Maximum sessions of the page.
        cursor: `SessionPage.cursor` of the previous page.
    """

    prefix: str = ""
    status: SessionStatus | None = None
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of sessions.

    Attributes:
        sessions: The last changed first.
        cursor: For the next page; None if nothing is left. A page may be short, even empty, and still have one, if many
            names were looked at and few matched. It may name a session that the page does not show.
    """

    sessions: tuple[SessionRecord, ...]
    cursor: str | None


async def list_sessions(store: Store, query: SessionQuery, readable: Readable | None = None) -> SessionPage:
    """One page of sessions.

    Sessions that `readable` refuses are treated as absent. It is asked first: neither the pages nor where they end
    depend on the names of refused sessions, and nothing is read of these.

    *Promise:* changes nothing. The work is limited, however many sessions there are. A session that changes meanwhile
    moves to the top, so it is then on the first page.

    Raises:
        WorkflowRuntimeError: A limit out of bounds, or a cursor that no page has returned.
        StoreUnavailable: Redis did not answer.
    """
    if not 1 <= query.limit <= MAX_LIMIT:
        raise WorkflowRuntimeError(f"A page has 1 to {MAX_LIMIT:,} sessions, not {query.limit}.")
    return await _Walk(store, query, readable).page()


async def all_sessions(store: Store, query: SessionQuery) -> list[SessionRecord]:
    """The sessions of as many pages as it takes to find `query.limit` of them, which may be any number.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    found: list[SessionRecord] = []
    while len(found) < query.limit:
        page = await list_sessions(store, replace(query, limit=min(query.limit - len(found), MAX_LIMIT)))
        found += page.sessions
        if page.cursor is None:
            break
        query = replace(query, cursor=page.cursor)
    return found


class _Walk:
    """Walks down the indexes of all shards at once, from the cursor on."""

    def __init__(self, store: Store, query: SessionQuery, readable: Readable | None) -> None:
        self.store, self.query, self.readable = store, query, readable
        self.position = None if query.cursor is None else _parsed(query.cursor)
        self.may_reach, self.may_ask, self.may_read = REACH, ASKED, READ
        self.found: list[tuple[Position, SessionRecord]] = []
        has_filter = bool(query.prefix or query.status or readable)
        self.size = PAGE if has_filter else min(PAGE, query.limit + 1)

    async def page(self) -> SessionPage:
        limit, more = self.query.limit, True
        while more and self._may_go_on:
            ahead, more = await self._stretch()
            while ahead and self._may_go_on:
                ahead = await self._take(ahead)
            more = more or bool(ahead)
        records = tuple(record for _, record in self.found[:limit])
        if len(self.found) > limit:
            return SessionPage(records, _spelled(self.found[limit - 1][0]))
        return SessionPage(records, _spelled(self.position) if more and self.position else None)

    @property
    def _may_go_on(self) -> bool:
        return len(self.found) <= self.query.limit and min(self.may_reach, self.may_ask, self.may_read) > 0

    async def _stretch(self) -> tuple[list[Position], bool]:
        """The next names of all shards, the last changed first; whether there may be more.

        An index with more names is known only down to the last one read. Below the newest of these, names may be
        missing: they are left to the next stretch.
        """
        size, position = self.size, self.position
        while True:
            top = "+inf" if position is None else position[0]
            keys = [self.store.keys.in_shard(shard, "sessions") for shard in range(self.store.settings.shards)]
            asked = (("ZRANGE", key, top, "-inf", "BYSCORE", "REV", "LIMIT", 0, size, "WITHSCORES") for key in keys)
            placed = [
                [(int(float(at)), state_id.decode()) for state_id, at in pairs(flat).items()]
                for flat in await self.store.batch("list sessions", *asked)
            ]
            horizon = max((some[-1] for some in placed if len(some) == size), default=None)
            ahead = sorted(
                (
                    each
                    for some in placed
                    for each in some
                    if (position is None or each < position) and (horizon is None or each >= horizon)
                ),
                reverse=True,
            )
            if ahead or horizon is None:
                return ahead, horizon is not None
            size *= 2  # as many changed at the same instant as the page before ended at

    async def _take(self, ahead: list[Position]) -> list[Position]:
        """Look at as many of these as are read at a time; returns the others."""
        most = PAGE if self.query.status else min(PAGE, self.query.limit + 1 - len(self.found))
        wanted: list[tuple[Position, str]] = []
        taken = 0
        while taken < len(ahead) and len(wanted) < most and min(self.may_reach, self.may_ask) > 0:
            self.position = ahead[taken]
            taken += 1
            self.may_reach -= 1
            name = session_of(f"{self.position[1]}.")
            if self.readable is not None:
                self.may_ask -= 1
                if not await self.readable(name):
                    continue
            if name.startswith(self.query.prefix):
                wanted.append((self.position, name))
        self.may_read -= len(wanted)
        self._keep(wanted, await session_records_of(self.store, [name for _, name in wanted]))
        return ahead[taken:]

    def _keep(self, wanted: list[tuple[Position, str]], records: Sequence[SessionRecord | None]) -> None:
        for (position, _), record in zip(wanted, records, strict=True):
            if record is not None and self.query.status in (None, record.status):
                self.found.append((position, record))


def _spelled(position: Position) -> str:
    return f"{position[0]}.{position[1]}"


def _parsed(cursor: str) -> Position:
    instant, _, state_id = cursor.partition(".")
    if not instant.isdigit() or not instant.isascii() or len(instant) > 15 or len(state_id) > 500:
        raise WorkflowRuntimeError(
            f"{cursor[:100]!r} is not a cursor. Use the cursor that came with the previous page."
        )
    return int(instant), state_id
