"""Sets of events, joined or collected, that did not become complete in time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...connection.keys import RunKeys, new_nonce
from ...model.commands import Command, Publish
from ...model.decide import Limits, route
from ...model.envelope import JOIN_EXPIRED, Envelope
from ...model.plan import Plan, StepPlan
from ...model.waiters import Surroundings
from ...model.work_item import Origin, Scope, derive_id
from ...store.replies import Applied, pairs, unpack_raw
from ...store.verbs import Store

#: Prefix of `collect_events` buffer ids that are made from a key.
KEY = "key:"


async def expire_join(store: Store, run_id: str, plan: Plan, buffer: str, limits: Limits) -> Applied | None:
    """Drop the events of a join whose time is over, and report that on the stream and to a step that accepts it.

    *Promise:* one script; a set that becomes complete meanwhile is not touched.

    Args:
        store: The runs.
        run_id: The run.
        plan: The run's.
        buffer: Its name in the outbox: the step, its fan-outs, and the key that the events share.
        limits: For routing.

    Returns:
        What was applied; None if nothing was dropped.
    """
    name, _, place = buffer.partition("|")
    scope, _, _ = place.partition("~")
    step = plan.by_name[name]
    types = tuple(dict.fromkeys(step.accepts))
    arrived = await _arrived(store, store.locate(run_id), buffer, types)
    event = _join_expired(step, arrived)
    return await _drop(store, run_id, plan, "join", buffer, event, limits, scope=scope, types=list(types))


async def expire_buffer(store: Store, run_id: str, plan: Plan, buffer: str, limits: Limits) -> Applied | None:
    """Like `expire_join`, for a set that `collect_events` gathers; `buffer` is the step and its buffer id."""
    keys = store.locate(run_id)
    known = pairs(await store.command("look at buffers", "HGETALL", keys["collect"]))
    lists = [name.decode() for name, of in known.items() if name.startswith(b"buffer:") and of == buffer.encode()]
    arrived = []
    for name in lists:
        found = await store.command("read a buffer", "LRANGE", keys[name], 0, -1)
        arrived += [Envelope.from_bytes(raw) for raw in found]
    step, _, buffer_id = buffer.partition("|")
    key = json.loads(buffer_id.removeprefix(KEY)) if buffer_id.startswith(KEY) else buffer_id
    event = _expired(step, key, [each.type for each in arrived], [])
    return await _drop(store, run_id, plan, "buffer", buffer, event, limits, lists=lists, extra=lists)


async def _drop(
    store: Store,
    run_id: str,
    plan: Plan,
    kind: str,
    buffer: str,
    event: Envelope,
    limits: Limits,
    *,
    scope: str = "",
    extra: Sequence[str] = (),
    **about: list[str],
) -> Applied | None:
    commands: list[Command] = [Publish(event)]
    if plan.accepting(event):
        emit_id = derive_id(run_id, "expired", buffer, event.payload, new_nonce())
        commands += route(plan, event, Origin(run_id, "expired", Scope(scope)), emit_id, Surroundings(), limits)
    body = [command.wire() for command in commands]
    keys = store.locate(run_id)
    dynamic = {name: keys[name] for name in extra}
    reply = await store.verb("expire", run_id, kind=kind, b=buffer, body=body, extra=dynamic, **about)
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
    key = arrived[0].field(step.join_by) if arrived and step.join_by is not None else None
    return _expired(step.name, key, names, missing)


def _expired(step: str, key: Any, arrived: list[str], missing: list[str]) -> Envelope:
    about = {
        "step": step,
        "key": key,
        "arrived": [name.rpartition(".")[2] for name in arrived],
        "missing": [name.rpartition(".")[2] for name in missing],
    }
    return Envelope(JOIN_EXPIRED, (), json.dumps(about, separators=(",", ":")).encode())
