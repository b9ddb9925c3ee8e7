"""Operations on a session as a whole: open it with a state, close it, delete it. Each is decided by one script."""

from __future__ import annotations

from collections.abc import Mapping

from ..connection.keys import new_id
from ..model.errors import SessionBusy, SessionExists
from ..store.verbs import Store
from .look import begun_runs
from .names import state_id_for

#: Names read at a time to remove those whose retention is over.
PAGE = 200


async def open_session(store: Store, session: str, state: Mapping[str, bytes], *, source: str) -> None:
    """Create a session that has no run yet, with a state. *Promise:* applied once, even if it is repeated.

    Args:
        store: The deployment.
        session: Its name.
        state: Top-level key -> JSON.
        source: The session that the state was copied from.

    Raises:
        SessionExists: A session or a run has this name.
    """
    run_id = f"{state_id_for(session)}.new"
    reply = await store.verb("open", run_id, id=new_id(), source=source, body=dict(state))
    if reply[0] == b"exists":
        raise SessionExists(f"A session or a run {session!r} already exists. Choose another name, or delete it.")


async def close_session(store: Store, session: str) -> None:
    """Close a session: it accepts no more runs. Its running and waiting runs are not affected."""
    await store.verb("close", f"{state_id_for(session)}.any")


async def delete_session(store: Store, session: str) -> None:
    """Delete a session: its state and its stored runs.

    *Promise:* one script checks that no run is running or waiting, and deletes the session. The runs are deleted one by
    one afterwards; if the process dies meanwhile, the others stay until their retention is over.

    Raises:
        SessionBusy: A run is running or waiting.
    """
    runs = await begun_runs(store, session)
    reply = await store.verb("close", f"{state_id_for(session)}.any", delete=True)
    if reply[0] == b"busy":
        raise SessionBusy(
            f"Session {session!r} cannot be deleted while one of its runs is running or waiting. Cancel these, or wait "
            "for their end."
        )
    for run in runs:
        await store.purge(run.run_id)


async def forget_expired(store: Store, shard: int, before: int) -> None:
    """Remove sessions whose retention is over from the list.

    Args:
        store: The deployment.
        shard: The shard whose list is checked.
        before: Only sessions that have not changed since this time are checked; Redis time in ms.
    """
    index = store.keys.in_shard(shard, "sessions")
    found = await store.command("list sessions", "ZRANGE", index, 0, before, "BYSCORE", "LIMIT", 0, PAGE)
    names = [each.decode() for each in found]
    kinds = ("handler", "session")
    asked = [("EXISTS", *(store.keys.in_shard(shard, f"{kind}:{name}") for kind in kinds)) for name in names]
    exist = await store.batch("look for sessions", *asked) if asked else []
    over = [name for name, exists in zip(names, exist, strict=True) if not exists]
    if over:
        await store.command("forget sessions", "ZREM", index, *over)
