"""Reading sessions: the current run of one, the runs that wait for their turn, and the list of sessions. Read-only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from heapq import merge
from typing import Literal

from ..model.errors import RunNotFound, WorkflowRuntimeError
from ..store.replies import RunRecord, pairs
from ..store.verbs import Store
from .names import is_plain, session_of, state_id_for

#: A session is busy while one of its runs is running or waiting.
SessionStatus = Literal["busy", "idle"]

#: Names of sessions read at a time, per shard.
PAGE = 200


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session as it is now.

    Attributes:
        name: Its name.
        status: busy while one of its runs is running or waiting.
        run_id: Its current run: the one that is running, or the one that ended last; None before the first.
        waiting: How many runs wait for their turn.
        version: Version of its state: how often it was written.
        is_closed: It accepts no more runs.
        changed_at: When one of its runs last began or ended, or when it was created; Redis time in ms.
    """

    name: str
    status: SessionStatus
    run_id: str | None
    waiting: int
    version: int
    is_closed: bool
    changed_at: int


@dataclass(frozen=True, slots=True)
class SessionRun:
    """One run of a session that has begun.

    Attributes:
        run_id: The run.
        version: Version of the state that the run began with.
        status: The status of the run.
    """

    run_id: str
    version: int
    status: str


async def current_run(store: Store, session: str) -> str:
    """The current run of a session; empty if there is none. If no session has this name, the run with this id."""
    state_id = state_id_for(session)
    key = store.locate(state_id)[f"handler:{state_id}"]
    found = await store.command("look at a session", "GET", key)
    return found.decode() if found else session if is_plain(session) else ""


async def handler_record(store: Store, handler_id: str) -> RunRecord:
    """The current run of a handler.

    Raises:
        RunNotFound: There is no such handler, or its retention is over.
    """
    try:
        before = await current_run(store, handler_id)
    except WorkflowRuntimeError as error:
        raise RunNotFound(str(error)) from error
    if not before:
        raise RunNotFound(f"No handler {handler_id!r}: nothing was started under this name, or its retention is over.")
    return await store.run(before)


async def waiting_runs(store: Store, session: str) -> list[str]:
    """Ids of the runs that wait for their turn, in order."""
    state_id = state_id_for(session)
    found = await store.command("look at a line", "LRANGE", store.locate(state_id)[f"line:{state_id}"], 0, -1)
    return [run_id.decode() for run_id in found]


async def begun_runs(store: Store, session: str, limit: int | None = None) -> list[SessionRun]:
    """Runs of a session that have begun and are still kept, newest first."""
    state_id = state_id_for(session)
    key = store.locate(state_id)[f"session_runs:{state_id}"]
    last = -1 if limit is None else limit - 1
    parts = await store.command("list a session", "ZREVRANGE", key, 0, last)
    ids = [f"{state_id}.{part.decode()}" for part in parts]
    asked = [("HMGET", store.locate(run_id)["run"], "state_version", "status") for run_id in ids]
    found = await store.batch("read runs", *asked) if asked else []
    return [
        SessionRun(run_id, int(version or 0), status.decode())
        for run_id, (version, status) in zip(ids, found, strict=True)
        if status is not None
    ]


async def session_record(store: Store, session: str) -> SessionRecord | None:
    """A session as it is now; None if there is none of this name."""
    state_id = state_id_for(session)
    keys = store.locate(state_id)
    at, waiting, about, version, changed_at = await store.batch(
        "look at a session",
        ("GET", keys[f"handler:{state_id}"]),
        ("LLEN", keys[f"line:{state_id}"]),
        ("HEXISTS", keys[f"session:{state_id}"], "closed"),
        ("HGET", keys[f"state:{state_id}:versions"], "v"),
        ("ZSCORE", keys["sessions"], state_id),
    )
    exists = at is not None or await store.command("look at a session", "EXISTS", keys[f"session:{state_id}"])
    if not exists:
        return None
    run_id = None if at is None else at.decode()
    status = (
        None if run_id is None else await store.command("read a run", "HGET", store.locate(run_id)["run"], "status")
    )
    return SessionRecord(
        name=session,
        status="busy" if status == b"running" or waiting else "idle",
        run_id=run_id,
        waiting=waiting,
        version=int(version or 0),
        is_closed=bool(about),
        changed_at=int(float(changed_at or 0)),
    )


async def session_records(
    store: Store,
    *,
    prefix: str = "",
    status: SessionStatus | None = None,
    limit: int = 100,
    readable: Callable[[str], Awaitable[bool]] | None = None,
) -> list[SessionRecord]:
    """Sessions, by when one of their runs last began or ended, newest first.

    Reads the names page by page until `limit` sessions match.

    Args:
        store: The deployment.
        prefix: Only names that begin with this.
        status: Only sessions with this status.
        limit: Maximum number of sessions.
        readable: Whether the session of a name may be listed; by default all may.
    """
    found: list[SessionRecord] = []
    async for names in _newest(store):
        fitting = [name for name in names if name.startswith(prefix)]
        for record in await asyncio.gather(*(session_record(store, name) for name in fitting)):
            is_wanted = record is not None and status in (None, record.status)
            if record is not None and is_wanted and (readable is None or await readable(record.name)):
                found.append(record)
        if len(found) >= limit:
            break
    return found[:limit]


async def _newest(store: Store) -> AsyncIterator[list[str]]:
    """Names of all sessions, page by page, newest first within each page."""
    keys = [store.keys.in_shard(shard, "sessions") for shard in range(store.settings.shards)]
    start = 0
    while keys:
        asked = [("ZREVRANGE", key, start, start + PAGE - 1, "WITHSCORES") for key in keys]
        pages = [pairs(flat) for flat in await store.batch("list sessions", *asked)]
        ordered = (((-float(at), state_id) for state_id, at in page.items()) for page in pages)
        yield [session_of(f"{state_id.decode()}.") for _, state_id in merge(*ordered)]
        keys = [key for key, page in zip(keys, pages, strict=True) if len(page) == PAGE]
        start += PAGE
