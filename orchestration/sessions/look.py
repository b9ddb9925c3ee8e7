"""Reading sessions: the current run of one, the runs that wait for their turn, sessions as they are now. Read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..model.errors import RunNotFound, WorkflowRuntimeError
from ..store.replies import RunRecord
from ..store.verbs import Store
from .names import is_plain, state_id_for

#: A session is busy while one of its runs is running or waiting.
SessionStatus = Literal["busy", "idle"]


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
    return (await session_records_of(store, [session]))[0]


async def session_records_of(store: Store, sessions: Sequence[str]) -> list[SessionRecord | None]:
    """Sessions as they are now; None for each name that no session has. Two round trips, however many there are."""
    asked: list[tuple[Any, ...]] = []
    for session in sessions:
        state_id = state_id_for(session)
        keys = store.locate(state_id)
        asked += [
            ("GET", keys[f"handler:{state_id}"]),
            ("LLEN", keys[f"line:{state_id}"]),
            ("HEXISTS", keys[f"session:{state_id}"], "closed"),
            ("EXISTS", keys[f"session:{state_id}"]),
            ("HGET", keys[f"state:{state_id}:versions"], "v"),
            ("ZSCORE", keys["sessions"], state_id),
        ]
    found = await store.batch("look at sessions", *asked) if asked else []
    parts = [found[at : at + 6] for at in range(0, len(found), 6)]
    current = dict.fromkeys(at.decode() for at, *_ in parts if at is not None)
    read = [("HGET", store.locate(run_id)["run"], "status") for run_id in current]
    statuses = dict(zip(current, await store.batch("read runs", *read) if read else [], strict=True))
    return [_record(session, part, statuses) for session, part in zip(sessions, parts, strict=True)]


def _record(session: str, found: Sequence[Any], statuses: dict[str, bytes | None]) -> SessionRecord | None:
    at, waiting, is_closed, exists, version, changed_at = found
    if at is None and not exists:
        return None
    run_id = None if at is None else at.decode()
    is_running = run_id is not None and statuses[run_id] == b"running"
    return SessionRecord(
        name=session,
        status="busy" if is_running or waiting else "idle",
        run_id=run_id,
        waiting=waiting,
        version=int(version or 0),
        is_closed=bool(is_closed),
        changed_at=int(float(changed_at or 0)),
    )
