"""Joins of several event parameters whose sets did not become complete in time."""

from __future__ import annotations

import json

from ...connection.keys import RunKeys
from ...model.commands import Command, Publish
from ...model.decide import Limits, route
from ...model.envelope import JOIN_EXPIRED, Envelope
from ...model.plan import Plan, StepPlan
from ...model.work_item import Origin, Scope, Surroundings, derive_id
from ...store.replies import Applied, unpack_raw
from ...store.verbs import Store


async def expire_join(store: Store, run_id: str, plan: Plan, buffer: str, limits: Limits) -> Applied | None:
    """Drop what has arrived of a set whose time is over, and say so: on the stream, and to a step that accepts it.

    *Promise:* one script; a set that becomes complete meanwhile is not touched.

    Args:
        store: The runs.
        run_id: The run.
        plan: The run's.
        buffer: As the outbox names it: the step, its fan-outs, and the key that the events share.
        limits: For routing.

    Returns:
        What follows; None if nothing was dropped.
    """
    name, _, place = buffer.partition("|")
    scope, _, _ = place.partition("~")
    step = plan.by_name[name]
    types = tuple(dict.fromkeys(step.accepts))
    arrived = await _arrived(store, store.locate(run_id), buffer, types)
    event = _join_expired(step, arrived)
    origin = Origin(run_id, "expired", Scope(scope))
    emit_id = derive_id(run_id, "expired", buffer, *(each.payload for each in arrived))
    commands: list[Command] = [Publish(event)]
    if plan.accepting(event):
        commands += route(plan, event, origin, emit_id, Surroundings(), limits)
    body = [command.wire() for command in commands]
    reply = await store.verb("expire", run_id, b=buffer, types=list(types), body=body)
    return store.applied(run_id, reply[1]) if reply[0] == b"expired" else None


async def _arrived(store: Store, keys: RunKeys, buffer: str, types: tuple[str, ...]) -> list[Envelope]:
    found = []
    for kind in types:
        stem = f"{buffer}|{kind}"
        ends = await store.command("look at a join", "HMGET", keys["joins"], f"{stem}:h", f"{stem}:t")
        first, last = (int(each or 0) for each in ends)
        fields = [f"{stem}:{index}" for index in range(first + 1, last + 1)]
        for raw in await store.command("look at a join", "HMGET", keys["joins"], *fields) if fields else ():
            data = await store.command("read an event", "HGET", keys["events"], unpack_raw(raw)[b"e"]) if raw else None
            if data is not None:
                found.append(Envelope.from_bytes(data))
    return found


def _join_expired(step: StepPlan, arrived: list[Envelope]) -> Envelope:
    names = [event.type for event in arrived]
    missing = [name for name in step.accepts if name not in names]
    about = {
        "step": step.name,
        "key": arrived[0].field(step.join_by) if arrived and step.join_by is not None else None,
        "arrived": [name.rpartition(".")[2] for name in names],
        "missing": [name.rpartition(".")[2] for name in missing],
    }
    return Envelope(JOIN_EXPIRED, (), json.dumps(about, separators=(",", ":")).encode())
