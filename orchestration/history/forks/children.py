"""What becomes of the child runs that a run waited for at a point, in a fork and in a rewind.

A fork either keeps the children (it takes the ends that are recorded and waits for the others) or forks each of them
as it was at the time of the point. A rewound run keeps its children.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ...connection.keys import state_id_of
from ...engine.children.listing import child_records
from ...model.commands import END_STATUSES, Command, LookAtChild
from ...model.envelope import Envelope
from ...model.errors import PointNotFound, RunNotFound
from ...model.work_item import derive_id
from ...snapshots.saved import RunSnapshot, SavedChild, SavedItem
from ...store.journal import Entry, entries
from ...store.replies import unpack_raw
from ...store.verbs import Store
from ..points import RunAt, Where, point_at


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a fork begins with.

    Attributes:
        snapshot: Includes the children that the fork waits for.
        looks: Commands to add to its start.
        forks: Child of the fork -> the point that the child is forked from.
    """

    snapshot: RunSnapshot
    looks: tuple[Command, ...] = ()
    forks: Mapping[str, RunAt] = field(default_factory=dict)


async def kept(store: Store, point: RunAt, run_id: str) -> Adopted:
    """A fork that waits for its origin's children. It gets its own child in place of one that had not begun.

    *Promise:* only reads.

    Args:
        store: The deployment.
        point: Where the fork continues from.
        run_id: The fork.
    """
    ends = await _ends(store, point)
    items, looks = [], list[Command]()
    for item in point.snapshot.items:
        answers, going, own = dict(item.answers), list[SavedChild](), list[SavedChild]()
        for child in item.children:
            if child.child_id in ends:
                answers[child.wait] = ends[child.child_id]
            elif not await _has_begun(store, point.run_id, child):
                own.append(replace(child, child_id=own_id(run_id, item, child)))
            else:
                going.append(replace(child, status="running", on_parent_end="leave", spec=None, is_kept=True))
        held = sum(child.status == "held" for child in item.children)
        at_once = len(item.children) - held - len(going)
        own = [replace(child, status="starting" if n < at_once else "held") for n, child in enumerate(own)]
        items.append(_waiting(item, answers, (*going, *own)))
        looks += [LookAtChild(child.child_id, begin=False) for child in going]
        looks += [LookAtChild(child.child_id, begin=True) for child in own if child.status == "starting"]
    return Adopted(replace(point.snapshot, items=tuple(items)), tuple(looks))


async def forked(store: Store, point: RunAt, run_id: str) -> Adopted:
    """A fork with its own fork of each child that its origin waited for, as the child was at the time of the point.

    Raises:
        HistoryUnavailable, HistoryDamaged, RunNotFound: The child's past cannot be rebuilt.
    """
    specs: dict[str, bytes] = {}
    if any(item.children for item in point.snapshot.items):
        async for entry in entries(store, point.run_id):
            if entry.seq <= point.seq:
                specs |= dict(_spawned(entry))
    items, looks, forks = [], list[Command](), dict[str, RunAt]()
    for item in point.snapshot.items:
        answers, waits = dict(item.answers), list[SavedChild]()
        for child in item.children:
            made = replace(child, child_id=own_id(run_id, item, child), spec=child.spec or specs.get(child.child_id))
            begun = child.status != "held" and await _has_begun(store, point.run_id, child)
            at = await _as_of(store, child.child_id, point.at) if begun else None
            if at is not None and at.snapshot.status in END_STATUSES:
                ending = (await store.run(child.child_id)).ending
                assert ending is not None
                answers[child.wait] = ending
                continue
            if at is not None:
                forks[made.child_id] = at
            waits.append(made if child.status == "held" else replace(made, status="starting"))
            if child.status != "held":
                # The forks are made one after another; until then no other process may begin the child.
                looks.append(LookAtChild(made.child_id, begin=at is None, later=0 if at is None else len(forks)))
        items.append(_waiting(item, answers, waits))
    return Adopted(replace(point.snapshot, items=tuple(items)), tuple(looks), forks)


async def put_back(store: Store, point: RunAt, snapshot: RunSnapshot) -> tuple[RunSnapshot, list[dict[str, Any]]]:
    """For a rewind: the children that the run waited for at the point. One that has completed since stays completed.

    *Promise:* only reads.

    Args:
        store: The deployment.
        point: The point to rewind to.
        snapshot: What the run continues from.

    Returns:
        What the run continues from, and the children it keeps: see `children.go_back` in `lua/lib/children.lua`.
    """
    live = {child_id: child async for child_id, child in child_records(store, point.run_id)}
    ends, items, kept = await _ends(store, point), [], list[dict[str, Any]]()
    for item in snapshot.items:
        answers, going, held = dict(item.answers), list[SavedChild](), 0
        had_ended = [_as_saved(child_id, wait, live) for wait, child_id in item.ended.items() if child_id in live]
        for child in (*had_ended, *(child for child in item.children if child.child_id in live)):
            status = live[child.child_id][b"st"].decode()
            about = {
                "id": child.child_id,
                "w": item.work_id,
                "wt": child.wait,
                "pe": child.on_parent_end,
                "st": status,
            }
            if status == "completed" and child.child_id in ends:
                answers[child.wait] = ends[child.child_id]
            elif child.wait not in answers or status not in END_STATUSES:  # still running, or waited for again
                answers.pop(child.wait, None)
                going.append(child)
                held += status == "held"
                about |= {"go": True} | ({"n": held} if status == "held" else {})
            kept.append(about)
        items.append(_waiting(item, answers, going))
    return replace(snapshot, items=tuple(items)), kept


def _as_saved(child_id: str, wait: str, live: Mapping[str, dict[bytes, Any]]) -> SavedChild:
    about = live[child_id]
    return SavedChild(
        child_id=child_id,
        wait=wait,
        status=about[b"st"].decode(),
        on_parent_end=about[b"pe"].decode(),
        workflow=about[b"wf"].decode(),
        plan_digest=about[b"pl"].decode(),
        plan=None,
        spec=None,
    )


async def _ends(store: Store, point: RunAt) -> dict[str, Envelope]:
    """The ends of children that the run received after the point."""
    ends: dict[str, Envelope] = {}
    if any(item.children or item.ended for item in point.snapshot.items):
        async for entry in entries(store, point.run_id, after=point.seq):
            if entry.kind == "child":
                arguments = entry.arguments
                ends[arguments[b"child"].decode()] = Envelope.from_bytes(arguments[b"event"])
    return ends


def own_id(run_id: str, item: SavedItem, child: SavedChild) -> str:
    """The id of a fork's child: the id that the step would choose if it started the child in the fork."""
    made = derive_id(run_id, item.work_id, "child", child.wait.removeprefix("child|"), digest_size=16)
    return f"{state_id_of(child.child_id)}.{made}" if "." in child.child_id else made


def _waiting(item: SavedItem, answers: Mapping[str, Envelope | None], children: Sequence[SavedChild]) -> SavedItem:
    """The work item with these answers, waiting for these children; it resumes if there are none left."""
    if not item.children and not children:
        return replace(item, answers=answers)
    ended = {**item.ended, **{child.wait: child.child_id for child in item.children if child.wait in answers}}
    waits = replace(item, answers=answers, ended=ended, children=tuple(children), suspended=bool(children))
    return waits if children else replace(waits, resumptions=item.resumptions + 1)


def _spawned(entry: Entry) -> Iterator[tuple[str, bytes]]:
    if b"c" not in entry.fields or entry.kind != "commit":
        return
    for command in _raw_commands(entry):
        if command.get(b"o") == b"spawn":
            yield command[b"id"].decode(), command[b"sp"]


def _raw_commands(entry: Entry) -> Iterable[dict[bytes, Any]]:
    found: Any = unpack_raw(entry.fields[b"c"])
    return found if isinstance(found, list) else ()


async def _has_begun(store: Store, parent: str, child: SavedChild) -> bool:
    """Whether a child has begun: it has no spec left, or its id exists as a child of this run, not of another one."""
    if child.spec is None:
        return True
    found: bytes | None = await store.command(
        "look at a child run", "HGET", store.locate(child.child_id)["run"], "parent"
    )
    return found == parent.encode()


async def _as_of(store: Store, run_id: str, at: datetime) -> RunAt | None:
    """A child as it was at a given time; None if it had not begun."""
    try:
        return await point_at(store, run_id, Where(at=at))
    except (PointNotFound, RunNotFound):
        return None
