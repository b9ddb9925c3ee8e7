"""What is changed of a past state before a run goes on from it: the state, events of its work, when timers are due."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...model.envelope import EXACT, Envelope
from ...model.errors import ContextSerdeError, WorkflowRuntimeError
from ...model.plan import Plan
from ...snapshots.take import RunSnapshot, SavedItem
from ..json_patch import patched
from ..points import RunAt, packed_state

#: A JSON Patch, top-level keys to set (None deletes one), or a function of the state that returns it or changes it.
StateEdit = Sequence[dict[str, Any]] | Mapping[str, Any] | Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes of a past state.

    Attributes:
        state: Of `ctx.store`.
        events: By work item, or by step where it has one work item: the event that it is executed with instead, or
            fields of its event that are replaced, as JSON values.
    """

    state: StateEdit | None = None
    events: Mapping[str, Envelope | Mapping[str, Any]] = field(default_factory=dict)


def edited(
    point: RunAt, edits: Edits, plan: Plan, now: int, answers: Mapping[str, Mapping[str, Envelope]] | None = None
) -> RunSnapshot:
    """The live state of a run at a point, with changes, ready to be gone on from.

    Args:
        point: The point.
        edits: What is changed.
        plan: What the run goes on by.
        now: Redis ms; timers are due after what was left of them at the point.
        answers: Work item -> name of a wait -> what answers it.

    Raises:
        HistoryUnavailable: The run had ended at the point.
        ContextSerdeError: The plan lacks steps that the work is for.
        WorkflowRuntimeError: An edit does not fit: the text says what there is.
    """
    snapshot = point.snapshot
    _check_steps(snapshot, plan, point)
    if edits.state is not None:
        before, after = point.state(), _edited_state(point.state(), edits.state)
        state = {
            key: snapshot.state[key] if key in before and before[key] == after[key] else raw
            for key, raw in packed_state(after).items()
        }
        snapshot = replace(snapshot, state=state)
    items = tuple(_later(item, now - _ms(point)) for item in _with_events(snapshot.items, edits.events, point, plan))
    waiters = tuple(
        saved if saved.due_at is None else replace(saved, due_at=saved.due_at + now - _ms(point))
        for saved in snapshot.waiters
    )
    return answered(replace(snapshot, items=items, waiters=waiters), answers or {})


def answered(snapshot: RunSnapshot, answers: Mapping[str, Mapping[str, Envelope]]) -> RunSnapshot:
    """The same, where waits are answered that are open in it."""
    waiting = {(saved.waiter.work_id, saved.waiter.waiter_id) for saved in snapshot.waiters}
    given = {
        work_id: {name: event for name, event in events.items() if (work_id, name) in waiting}
        for work_id, events in answers.items()
    }
    return replace(
        snapshot,
        items=tuple(
            replace(item, suspended=False, resumptions=item.resumptions + 1, answers={**item.answers, **events})
            if (events := given.get(item.work_id))
            else item
            for item in snapshot.items
        ),
        waiters=tuple(
            saved for saved in snapshot.waiters if saved.waiter.waiter_id not in given.get(saved.waiter.work_id, ())
        ),
    )


def _ms(point: RunAt) -> int:
    return round(point.at.timestamp() * 1000)


def _later(item: SavedItem, by: int) -> SavedItem:
    return item if item.due_at is None else replace(item, due_at=item.due_at + by)


def _check_steps(snapshot: RunSnapshot, plan: Plan, point: RunAt) -> None:
    used = {item.step for item in snapshot.items} | {slot.step for slot in snapshot.slots}
    used |= {step for scope in snapshot.scopes for _, step in scope.joins}
    missing = sorted(used - set(plan.by_name))
    if missing:
        raise ContextSerdeError(
            f"Nothing can go on from point {point.seq} of run {point.run_id!r} with workflow {plan.workflow!r} as it "
            f"is now: it has no step {', '.join(map(repr, missing))}. Load code that has them, or give code='recorded'."
        )


def _edited_state(state: dict[str, Any], edit: StateEdit) -> dict[str, Any]:
    if callable(edit):
        returned = edit(state)
        made = state if returned is None else returned
    elif isinstance(edit, Mapping):
        made = {key: value for key, value in (state | dict(edit)).items() if not (key in edit and edit[key] is None)}
    else:
        made = patched(state, edit)
    try:
        json.dumps(made)
    except (TypeError, ValueError) as error:
        raise WorkflowRuntimeError(
            f"The edited state cannot be stored: {error}. Its values are JSON, as `point.state()` gives them."
        ) from error
    if not isinstance(made, dict):
        raise WorkflowRuntimeError(f"The edited state is a {type(made).__name__}; expected a dict by top-level keys.")
    return made


def _with_events(
    items: Sequence[SavedItem], events: Mapping[str, Envelope | Mapping[str, Any]], point: RunAt, plan: Plan
) -> Sequence[SavedItem]:
    given = dict(events)
    found = []
    for item in items:
        alone = sum(each.step == item.step for each in items) == 1
        edit = given.pop(item.work_id, None) or (given.pop(item.step, None) if alone else None)
        if edit is not None:
            if len(item.events) != 1 or item.fan_in is not None:
                raise WorkflowRuntimeError(
                    f"Step {item.step!r} gathers {len(item.events)} events at point {point.seq} of run "
                    f"{point.run_id!r}; only the event of a step that takes one can be replaced."
                )
            event = edit if isinstance(edit, Envelope) else _with_fields(item.events[0], edit, item.step)
            accepts = plan.by_name[item.step].accepts
            if not any(event.is_a(name) for name in accepts):
                raise WorkflowRuntimeError(
                    f"Step {item.step!r} does not accept {event.type}; it accepts {', '.join(accepts)}."
                )
            item = replace(item, events=(event,), event_name=event.type)
        found.append(item)
    if given:
        there = ", ".join(f"{item.step} ({item.work_id})" for item in items) or "none"
        raise WorkflowRuntimeError(
            f"Events were given for {', '.join(map(repr, given))}, which names no single work item at point "
            f"{point.seq} of run {point.run_id!r}. Its work then: {there}."
        )
    return found


def _with_fields(event: Envelope, fields: Mapping[str, Any], step: str) -> Envelope:
    value = json.loads(event.payload)
    if EXACT in value:
        raise WorkflowRuntimeError(
            f"The {event.type} for step {step!r} has values that are more than JSON; its fields cannot be replaced one "
            "by one. Give a whole event."
        )
    more = value.get("_data") or {}
    unknown = sorted(set(fields) - set(value) - set(more))
    if unknown:
        raise WorkflowRuntimeError(
            f"The {event.type} for step {step!r} has no field {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(sorted({*value, *more} - {'_data'}))}."
        )
    for name, new in fields.items():
        (value if name in value else more)[name] = new
    return replace(event, payload=json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
