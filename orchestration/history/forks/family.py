"""Which runs were forked from which: an index per origin, so that its forks are found without a search."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ...model.errors import RunNotFound
from ...model.work_item import ForkedFrom
from ...store.reads import StoreReads
from ...store.verbs import Store

#: Limits: forks remembered per run (the newest), runs of a family, runs that are looked at for it, generations followed
#: upwards.
REMEMBERED, MOST, LOOKED, GENERATIONS = 200, 200, 1_000, 50


@dataclass(frozen=True, slots=True)
class Kin:
    """One run of a family.

    Attributes:
        run_id: The run.
        origin: The run that it was forked from; None for the topmost run that is still kept and readable.
        seq: The point that it was forked from; 0 without an origin.
    """

    run_id: str
    origin: str | None
    seq: int


async def remember(store: Store, origin: str, run_id: str, now: int) -> None:
    """Record that a run is about to be forked from another one.

    *Promise:* one transaction. The index expires `retention_seconds` after the last fork. A name in it is ignored if
    its run was never created or is no longer kept.

    Args:
        store: The deployment.
        origin: The run that is forked.
        run_id: Its fork.
        now: Redis time in ms.
    """
    key = _key(store, origin)
    await store.connection.transaction(
        "note a fork",
        ("ZADD", key, now, run_id),
        ("ZREMRANGEBYRANK", key, 0, -REMEMBERED - 1),
        ("PEXPIRE", key, round(store.settings.retention_seconds * 1000)),
        patience_seconds=store.patience_seconds,
    )


async def family(
    store: StoreReads, run_id: str, is_readable: Callable[[str], Awaitable[bool]]
) -> tuple[tuple[Kin, ...], bool]:
    """A run, its origins and all their forks, origins first; and whether some are left out.

    Args:
        store: The deployment.
        run_id: The run.
        is_readable: Whether a run may be included. The forks of a run that may not be are left out too.

    Raises:
        RunNotFound: No such run, or its retention is over.
    """
    first = Kin(run_id, None, 0)
    for _ in range(GENERATIONS):
        above = await _origin(store, first.run_id)
        if above is None or not await is_readable(above.run_id) or not await _is_kept(store, above.run_id):
            break
        first = Kin(above.run_id, None, 0)
    found = {first.run_id: first}
    looked = 0
    for kin in (waiting := [first]):
        for fork in await store.command("list forks", "ZRANGE", _key(store, kin.run_id), 0, -1):
            if len(found) >= MOST or looked >= LOOKED:
                return tuple(found.values()), True
            looked += 1
            if (child := await _child(store, kin.run_id, fork.decode())) and await is_readable(child.run_id):
                found[child.run_id] = child
                waiting.append(child)
    return tuple(found.values()), False


async def _child(store: StoreReads, origin: str, run_id: str) -> Kin | None:
    try:
        above = await _origin(store, run_id)
    except RunNotFound:
        return None
    return None if above is None or above.run_id != origin else Kin(run_id, origin, above.seq)


async def _origin(store: StoreReads, run_id: str) -> ForkedFrom | None:
    about = (await store.run(run_id)).options.get("fork")
    return None if about is None else ForkedFrom(**about)


async def _is_kept(store: StoreReads, run_id: str) -> bool:
    return bool(await store.command("look for a run", "EXISTS", store.locate(run_id)["run"]))


def _key(store: StoreReads, origin: str) -> str:
    return store.locate(origin)[f"forks:{origin}"]
