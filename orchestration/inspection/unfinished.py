"""A run's unfinished work, read from its work records. For display only: no decision depends on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from ..model.waiters import Waiter
from ..store.record import WorkRecord, decode
from ..store.replies import pairs
from ..store.verbs import Store
from .timeline import Execution

WorkState = Literal["ready", "running", "delayed", "suspended", "parked", "failed"]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One work item that has left its step's queue and has not ended.

    Attributes:
        step: The step.
        work_id: The work item.
        attempt: The attempt that runs or comes next, from 1.
        state: `ready` is dispatched and not claimed yet; `delayed` waits for its next attempt, `suspended` for an
            event or for child runs.
        owner: The process that runs it.
        since: When it was claimed if it is running, else when it was dispatched, in Redis ms.
        queue: The broker queue it is dispatched to.
        awaits: Wire names of the events it waits for.
        children: How many child runs it waits for.
    """

    step: str
    work_id: str
    attempt: int
    state: WorkState
    owner: str
    since: int | None
    queue: str
    awaits: tuple[str, ...] = ()
    children: int = 0


async def unfinished(store: Store, run_id: str) -> list[Unfinished]:
    """The run's unfinished work items, oldest first; not those that still wait for a slot of their step."""
    keys = store.locate(run_id)
    found = await store.batch("look at unfinished work", ("HGETALL", keys["work"]), ("HGETALL", keys["waiters"]))
    records, waiters = map(pairs, found)
    awaited: dict[str, list[str]] = {}
    for name, data in waiters.items():
        waiter = Waiter.from_bytes(name.decode(), data)
        awaited.setdefault(waiter.work_id, []).append(waiter.event_type)
    items = [_item(raw_id.decode(), decode(raw), awaited) for raw_id, raw in records.items()]
    return sorted(items, key=lambda item: (item.since or 0, item.step))


def _item(work_id: str, record: WorkRecord, awaited: dict[str, list[str]]) -> Unfinished:
    is_running = record.state == "running"
    return Unfinished(
        step=record.step,
        work_id=work_id,
        attempt=record.attempt,
        state=cast(WorkState, record.state),
        owner=record.owner if is_running else "",
        since=record.claimed_at if is_running else record.dispatched_at,
        queue=record.queue,
        awaits=tuple(sorted(awaited.get(work_id, ()))),
        children=record.awaited or 0,
    )


def running(items: Iterable[Unfinished]) -> list[Execution]:
    """The executions in progress, to be shown after those that have ended."""
    return [
        Execution(item.step, item.work_id, item.attempt, item.owner, item.since, None, "running")
        for item in items
        if item.state == "running" and item.since is not None
    ]
