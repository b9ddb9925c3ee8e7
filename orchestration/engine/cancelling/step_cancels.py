"""Cancel steps of a running run: queued work is removed, running work loses its token and is stopped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...model.decide import Limits, route
from ...model.envelope import Envelope, internal
from ...model.errors import RunNotFound, UmbelError, WorkflowRuntimeError, WorkflowStepDoesNotExistError
from ...model.plan import Plan
from ...model.waiters import Surroundings
from ...model.work_item import Origin, Scope, derive_id
from ...store.calls import checks
from ...store.record import WorkRecord
from ...store.replies import Applied, Refusal, not_found
from ...store.verbs import Store
from .selection import LiveWork, Selection, event_of, live_work

STEP_CANCELLED = "umbel.StepCancelled"

#: How many work items one script cancels.
_AT_ONCE = 100


class RestNotDue(UmbelError):
    """The outbox does not say that a join has all it takes: all is cancelled, or Redis was set back to before that."""


async def cancel_work(
    store: Store,
    run_id: str,
    plan: Plan,
    selection: Selection,
    limits: Limits,
    *,
    downstream: bool = False,
    instead: Envelope | None = None,
    reason: str = "",
) -> tuple[int, list[Applied]]:
    """Cancel the selected work items of a run, as they are now.

    *Promise:* each work item is cancelled atomically with everything that follows, or has ended before. The call may be
    repeated: cancelled items no longer exist. A crash in between leaves some of the items uncancelled.

    Args:
        store: The runs.
        run_id: The run.
        plan: The run's.
        selection: Which work items.
        limits: For routing.
        downstream: Also cancel work that has followed from ended executions of the selected step, as far as the journal
            goes back.
        instead: An event to emit in place of each item, as if its step had returned it.
        reason: Published on the stream.

    Returns:
        How many were cancelled, and what follows from each script.

    Raises:
        WorkflowStepDoesNotExistError: The run has no such step.
        RunNotFound: No such run.
        WorkflowRuntimeError: It has ended.
        RestNotDue: A fan-out is selected, and no join of it is known to have all it takes.
    """
    if selection.step is not None and selection.step not in plan.by_name:
        raise WorkflowStepDoesNotExistError(
            f"Run {run_id!r} has no step {selection.step!r}. Its steps: {', '.join(plan.by_name)}."
        )
    live, events = await live_work(store, run_id)
    chosen = [item for item in live if selection.has(item.record, event_of(item.record, events))]
    if downstream:
        known = {item.record.work_id for item in chosen}
        below = await _descendants(store, run_id, selection, known)
        chosen += [item for item in live if item.record.work_id in below - known - {selection.but}]
    cancelled = 0
    applied: list[Applied] = []
    while chosen:
        missed = 0
        for first in range(0, len(chosen), _AT_ONCE):
            some = chosen[first : first + _AT_ONCE]
            try:
                count, change = await _cancel(store, run_id, plan, some, limits, instead, reason, selection.scope_id)
            except WorkflowRuntimeError:
                if not applied:
                    raise
                return cancelled, applied  # the run has ended meanwhile, perhaps because of this
            cancelled, missed = cancelled + count, missed + len(some) - count
            applied.append(change)
        if not missed and selection.scope_id is None:
            break
        # Some items have moved on since they were read. In a fan-out, joins of cancelled items may have fired since.
        live, _ = await live_work(store, run_id)
        if selection.scope_id is None:
            selection = Selection(work_ids=frozenset(item.record.work_id for item in chosen))
        chosen = [item for item in live if item.is_cancellable and selection.has(item.record, None)]
    return cancelled, applied


async def _cancel(
    store: Store,
    run_id: str,
    plan: Plan,
    items: Sequence[LiveWork],
    limits: Limits,
    instead: Envelope | None,
    reason: str,
    rest_of: str | None,
) -> tuple[int, Applied]:
    keys = store.locate(run_id)
    while True:
        surroundings = Surroundings() if instead is None else await store.waiters_for(run_id, [instead] * len(items))
        left, described, routed = surroundings, [], []
        for item in items:
            commands = []
            if instead is not None:
                origin = _origin(run_id, item.record)
                emit_id = derive_id(item.record.work_id, "instead")
                commands = route(plan, instead, origin, emit_id, left, limits)
                left = left.after(instead)
            routed += commands
            described.append(_described(run_id, item, reason) | {"commands": [each.wire() for each in commands]})
        reply = await store.verb(
            "cancel",
            run_id,
            body=described,
            rest=rest_of,
            extra={name: keys[name] for item in items for name in _keys_of(plan, item.record)},
            **checks(surroundings, routed, bool(routed)),
        )
        if reply[0] != Refusal.CHANGED.encode():
            break
    if reply[0] == b"unknown":
        raise RunNotFound(not_found(run_id))
    if reply[0] == b"done":
        raise RestNotDue
    if reply[0] == b"closed":
        raise WorkflowRuntimeError(f"Run {run_id!r} has ended: none of its steps can be cancelled.")
    return int(reply[2]), store.applied(run_id, reply[1])


def _described(run_id: str, item: LiveWork, reason: str) -> dict[str, Any]:
    record = item.record
    about: dict[str, Any] = {
        "w": record.work_id,
        "d": internal(STEP_CANCELLED, step=record.step, work_id=record.work_id, reason=reason).to_bytes(),
        "f": item.field,
        "o": f"owner:{record.owner}" if record.state == "running" else None,
        "r": record.resumptions if record.state == "suspended" else None,
        "waits": list(item.waits) or None,
        "kids": list(item.children) or None,
    }
    return {name: value for name, value in about.items() if value is not None}


def _origin(run_id: str, record: WorkRecord) -> Origin:
    return Origin(run_id, record.work_id, Scope(record.scope))


def _keys_of(plan: Plan, record: WorkRecord) -> Iterable[str]:
    """Dynamic keys that the end of a work item may touch: its own, and the members of the fan-outs it is in."""
    yield f"sent:{record.work_id}"
    yield from record.taken
    if record.state == "running":
        yield f"owner:{record.owner}"
    if record.scope_id is not None:
        yield f"members:{record.scope_id}:{record.step}"
    for scope_id, opener, _ in Scope(record.scope).levels():
        yield from (f"members:{scope_id}:{step}" for step in plan.by_name[opener].collected_by)


async def _descendants(store: Store, run_id: str, selection: Selection, roots: set[str]) -> set[str]:
    """Work that has followed from a step's executions, according to the run's journal."""
    led_to: Mapping[str, set[str]] = defaultdict(set)
    found = set(roots)
    for _, _, data in await store.journal(run_id):
        if not isinstance(data, dict):
            continue
        source = data.get("w", "")
        if data.get("s") == selection.step and (selection.work_ids is None or source in selection.work_ids):
            found.add(source)
        for group in data.get("led_to") or ():
            led_to[group.get("by") or source].update(group["w"])
    waiting = list(found)
    while waiting:
        for work_id in led_to[waiting.pop()] - found:
            found.add(work_id)
            waiting.append(work_id)
    return found
