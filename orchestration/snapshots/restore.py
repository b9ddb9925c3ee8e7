"""Starts a new run with the live state of another: writes what `take.py` has read in parts, then starts the run. The
parts have no effect until `start` begins the run; those of an abandoned restoration expire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..connection.keys import RunKeys
from ..model.commands import Command, Fill, OpenScope
from ..model.decide import Limits, route
from ..model.envelope import Envelope
from ..model.plan import Plan
from ..model.waiters import Surroundings
from ..model.work_item import Origin, Scope, buffer_name, derive_id
from ..store.record import new as new_record
from ..store.replies import Applied, Refusal
from ..store.verbs import Store
from .saved import RunSnapshot, SavedChild, SavedItem

T = TypeVar("T")

#: Data of a run that is never started expires after this time (ms), as in `restore.lua`.
ABANDONED_AFTER = 3_600_000
#: Work items (or list elements) that one script of a restoration writes.
PART = 200


async def begin_from(
    store: Store,
    run_id: str,
    plan: Plan,
    snapshot: RunSnapshot,
    commands: Sequence[Command],
    limits: Limits,
    *,
    nonce: str,
    timeout_seconds: float | None,
    options: dict[str, Any],
    num_concurrent_runs: int | None = None,
    recorded: Mapping[str, bytes] | None = None,
    parent: str | None = None,
    in_session: bool = False,
) -> Applied | Refusal:
    """Begin a run with the live state of another one.

    The snapshot is written to Redis in parts, each by a short script, and has no effect until `start` begins the run in
    one step. *Promise:* called again with the same nonce, it continues where it was interrupted. An abandoned
    restoration leaves keys that expire within an hour, and no run.

    Args:
        store: The deployment.
        run_id: The new run.
        plan: The current plan of the workflow; it must have all steps that the snapshot's work needs.
        snapshot: The state to begin with.
        commands: Applied at the start, such as the routing of a start event.
        limits: For the default queue.
        nonce: Identifies this restoration.
        timeout_seconds: The new run's timeout; the time that the saved run has used counts.
        options: Options of the new run.
        num_concurrent_runs: As in `Store.start`.
        recorded: What the run may reuse instead of executing steps: `Recordings.fields`.
        parent: As in `Store.start`.
        in_session: It is the first run of the session that its id names.

    Returns:
        The reply of `Store.start`; `EXISTS` if the id is taken.
    """
    parts = list(puts(run_id, plan, snapshot, limits))
    if await put_parts(store, run_id, parts, nonce=nonce) is None:
        return Refusal.EXISTS
    if recorded and parts:  # the first part has reserved the id
        key, kept = store.locate(run_id)["recorded"], list(recorded.items())
        for some in _chunks(kept, PART):
            await store.batch(
                "restore a run", ("HSET", key, *(x for pair in some for x in pair)), ("PEXPIRE", key, ABANDONED_AFTER)
            )
    spent = snapshot.spent_seconds if snapshot.goes_on else 0
    fills = [Fill(plan.by_name[name]) for name in dict.fromkeys(item.step for item in snapshot.items)]
    return await store.start(
        run_id,
        plan,
        [*fills, *_deliveries(run_id, plan, snapshot, limits), *commands],
        nonce=nonce,
        timeout_seconds=None if timeout_seconds is None else max(0, timeout_seconds - spent),
        options=options | ({"spent": spent} if spent else {}),
        num_concurrent_runs=num_concurrent_runs,
        parent=parent,
        when_busy="reject" if in_session else None,
        restored=sorted({put["n"] for put in parts if put["o"] in ("list", "sent")}),
    )


async def put_parts(
    store: Store,
    run_id: str,
    contents: Sequence[dict[str, Any]],
    *,
    nonce: str,
    keys: RunKeys | None = None,
    aside: bool = False,
) -> int | None:
    """Write contents to Redis in parts; returns how many, or None if a run with this id exists.

    *Promise:* called again with the same nonce, it continues where it was interrupted. Abandoned parts expire.

    Args:
        store: The deployment.
        run_id: The run.
        contents: From `puts`.
        nonce: Identifies this restoration.
        keys: Keys to write to instead of the run's.
        aside: The contents will be moved to the run's keys later.
    """
    keys, part = keys or store.locate(run_id), 0
    for part, chunk in enumerate(_chunks(contents, PART), 1):
        names = {put["n"] for put in chunk if put["o"] in ("list", "sent")}
        extra = {name: keys[name] for name in names}
        reply = await store.verb(
            "restore", run_id, keys=keys, nonce=nonce, part=part, aside=aside or None, body=chunk, extra=extra
        )
        if reply[0] != b"restored":
            return None
    return part


def _deliveries(run_id: str, plan: Plan, snapshot: RunSnapshot, limits: Limits) -> Iterator[Command]:
    for number, sent in enumerate(snapshot.sends):
        origin = Origin(run_id, "restored", Scope(sent.scope), dict(sent.recoveries))
        emit_id = derive_id(run_id, "sent", number)
        yield from route(plan, sent.event, origin, emit_id, Surroundings(), limits, target=sent.target)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def puts(run_id: str, plan: Plan, snapshot: RunSnapshot, limits: Limits) -> Iterator[dict[str, Any]]:
    """The contents of the parts: the commands for `restore.lua`."""
    for fields in _chunks(list(snapshot.state.items()), PART):
        yield {"o": "state", "f": [part for pair in fields for part in pair]}
    for scope in snapshot.scopes:
        joins = tuple((work_id, plan.by_name[step]) for work_id, step in scope.joins)
        opening = OpenScope(scope.scope_id, scope.parent, joins, limits.queue, scope.recoveries)
        yield opening.wire() | {"o": "scope", "fired": list(scope.fired)}
        for step, members in scope.members.items():
            yield from _list(f"members:{scope.scope_id}:{step}", members)
    for number, slot in enumerate(snapshot.slots):
        put: dict[str, Any] = {
            "o": "slot",
            "sc": slot.scope,
            "ky": plan.by_name[slot.step].join_key(slot.event),
            "s": slot.step,
            "ty": slot.accepted_as,
            "e": derive_id(run_id, "slot", number),
            "d": slot.event.to_bytes(),
            "rc": slot.recoveries,
        }
        yield put if slot.due_at is None else put | {"at": slot.due_at}
    for chunk in _chunks(list(snapshot.sets.items()), PART):
        yield {"o": "sets", "f": [part for pair in chunk for part in (f"{pair[0]}#", pair[1])]}
    for buffer in snapshot.buffers:
        name = buffer_name(buffer.step, buffer.buffer_id, buffer.members[0].type)
        yield from _list(name, buffer.members)
        put = {"o": "call", "n": name, "a": f"{buffer.step}|{buffer.buffer_id}"}
        yield put if buffer.due_at is None else put | {"at": buffer.due_at}
    for number, event in enumerate(snapshot.inbox):
        yield {"o": "inbox", "e": derive_id(run_id, "inbox", number), "d": event.to_bytes()}
    open_scopes = {scope.scope_id for scope in snapshot.scopes}
    for item in snapshot.items:
        yield from _item_puts(plan, item, limits, gathered=item.fan_in not in open_scopes)
    for saved in snapshot.waiters:
        waiter = saved.waiter
        put = {"o": "waiter", "w": waiter.work_id, "wt": waiter.waiter_id, "d": waiter.to_bytes()}
        yield put if saved.due_at is None else put | {"at": saved.due_at}


def _list(name: str, members: Sequence[Envelope]) -> Iterator[dict[str, Any]]:
    for chunk in _chunks(members, PART):
        yield {"o": "list", "n": name, "d": [event.to_bytes() for event in chunk]}


def _item_puts(plan: Plan, item: SavedItem, limits: Limits, *, gathered: bool) -> Iterator[dict[str, Any]]:
    stored: list[str | bytes] = []

    def keep(event: Envelope, *about: str | int, child_id: str | None = None) -> str:
        event_id = derive_id(item.work_id, *about) if child_id is None else f"child|{child_id}"
        stored.extend((event_id, event.to_bytes()))
        return event_id

    fields: dict[str, Any] = {}
    kind = plan.by_name[item.step].kind
    if item.fan_in is not None:
        fields |= {"scope_id": item.fan_in, "members": len(item.events)}
        if item.is_large_group:  # it also has its first event: without it, it would be grouped once more
            fields["event_id"] = keep(item.events[0], "event", 0)
        if gathered:  # the fan-out has closed; its collected events belong to this item alone
            yield from _list(f"members:{item.fan_in}:{item.step}", item.events)
    elif kind == "each":
        fields["event_id"] = keep(item.events[0], "event", 0)
    else:  # a set of a join, or a group
        fields["event_ids"] = [keep(event, "event", i) for i, event in enumerate(item.events)]
    if kind == "all_of":
        fields["recoveries_each"] = list(item.recoveries)
    if item.answers:
        fields["answers"] = {
            waiter: False if event is None else keep(event, "answer", waiter, child_id=item.ended.get(waiter))
            for waiter, event in item.answers.items()
        }
    if item.sent:
        fields["sent_early"] = 1
        for chunk in _chunks(item.sent, PART):
            yield {"o": "sent", "n": f"sent:{item.work_id}", "d": list(chunk)}
    if item.calls:
        fields["calls"] = list(item.calls)
        for name, reply in item.calls.items():
            yield {"o": "call", "n": name, "a": reply}
    if item.taken:
        fields["taken"] = list(item.taken)
        for name, members in item.taken.items():
            yield from _list(name, members)
    if item.suspended and item.children:
        fields |= {"awaited": len(item.children), "next_held": 1}
        held = 0
        for child in item.children:
            held += child.status == "held"
            yield _child_put(item, child, held if child.status == "held" else None)
    record = new_record(
        plan.by_name[item.step],
        limits.queue,
        work_id=item.work_id,
        event_name=item.event_name,
        scope=item.scope,
        recoveries=item.recoveries[0],
        state="suspended" if item.suspended else "delayed" if item.due_at is not None else "queued",
        failures=item.failures or None,
        resumptions=item.resumptions or None,
        first_attempt_at=item.first_attempt_at,
        last_failed_at=item.last_failed_at,
        last_error=item.last_error,
        **fields,
    )
    put: dict[str, Any] = {"o": "item", "r": record, "ev": stored}
    yield put if item.due_at is None else put | {"at": item.due_at}


def _child_put(item: SavedItem, child: SavedChild, number: int | None) -> dict[str, Any]:
    put = {
        "o": "child",
        "id": child.child_id,
        "w": item.work_id,
        "wt": child.wait,
        "st": child.status,
        "pe": child.on_parent_end,
        "wf": child.workflow,
        "pl": child.plan_digest,
        "plan": child.plan,
        "sp": child.spec,
        "ke": child.is_kept or None,
        "n": number,
    }
    return {name: value for name, value in put.items() if value is not None}
