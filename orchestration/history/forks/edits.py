"""Edits to a past state before a run continues from it: the state, events of its work, due times of timers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from ...model.envelope import EXACT, Envelope
from ...model.errors import ContextSerdeError, PayloadTooLarge, WorkflowRuntimeError
from ...model.plan import Plan
from ...model.tagged_json import TAG, NotJson, to_tagged
from ...snapshots.saved import RunSnapshot, SavedBuffer, SavedItem, SavedSlot, SavedWaiter
from ..json_patch import patched
from ..points import RunAt, packed_state

Timed = TypeVar("Timed", SavedItem, SavedWaiter, SavedSlot, SavedBuffer)

#: A JSON Patch; top-level keys to set (None deletes one); or a function that takes the state and returns or changes it.
StateEdit = Sequence[dict[str, Any]] | Mapping[str, Any] | Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Edits:
    """Edits to a past state.

    Attributes:
        state: Edit of `ctx.store`.
        events: By work item, or by step if the step has only one work item: the event to execute it with instead, or
            the fields of its event to replace, as JSON values. Class names in these values are treated as data.
        max_bytes: Limit for one key of the state and for one event; None for no limit.
        fits: Raises WorkflowRuntimeError for an event that its class would reject.
    """

    state: StateEdit | None = None
    events: Mapping[str, Envelope | Mapping[str, Any]] = field(default_factory=dict)
    max_bytes: int | None = None
    fits: Callable[[Envelope], object] = lambda _: None

    def check_size(self, what: str, data: bytes) -> None:
        """Refuse data that is too large to be stored.

        Raises:
            PayloadTooLarge: It has more than `max_bytes`.
        """
        if self.max_bytes is not None and len(data) > self.max_bytes:
            raise PayloadTooLarge(
                f"{what} would have {len(data):,} bytes, at most {self.max_bytes:,} are allowed (payload_max_bytes). "
                "Keep the data in a file, a bucket or a database, and give its location."
            )


def edited(
    point: RunAt, edits: Edits, plan: Plan, now: int, answers: Mapping[str, Mapping[str, Envelope]] | None = None
) -> RunSnapshot:
    """The live state of a run at a point, edited, ready to continue from.

    Args:
        point: The point.
        edits: The edits.
        plan: The plan that the run continues with.
        now: Redis time in ms. A timer is due after the time that it had left at the point.
        answers: Work item -> name of a wait -> the event that answers it.

    Raises:
        ContextSerdeError: The plan lacks steps that the unfinished work needs.
        PayloadTooLarge: An edited key or event exceeds `edits.max_bytes`.
        WorkflowRuntimeError: An edit does not fit; the message lists what exists.
    """
    snapshot = point.snapshot
    _check_steps(snapshot, plan, point)
    if edits.state is not None:
        before, after = point.state(), edited_state(point.state(), edits.state)
        same = {key for key in after if key in before and _is_same(before[key], after[key])}
        changed = packed_state(
            {
                key: _checked(value, f"Key {key!r} of the edited state")
                for key, value in after.items()
                if key not in same
            }
        )
        for key, raw in changed.items():
            edits.check_size(f"Key {key!r} of the edited state", raw)
        snapshot = replace(snapshot, state={key: snapshot.state[key] if key in same else changed[key] for key in after})
    by = now - _ms(point)
    later = replace(
        snapshot,
        items=_later(_with_events(snapshot.items, edits, point, plan), by),
        waiters=_later(snapshot.waiters, by),
        slots=_later(snapshot.slots, by),
        buffers=_later(snapshot.buffers, by),
    )
    return answered(later, answers or {})


def answered(snapshot: RunSnapshot, answers: Mapping[str, Mapping[str, Envelope]]) -> RunSnapshot:
    """The same snapshot with these answers, as far as their waits are open in it."""
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


def _later(some: Sequence[Timed], by: int) -> tuple[Timed, ...]:
    return tuple(each if each.due_at is None else replace(each, due_at=each.due_at + by) for each in some)


def _check_steps(snapshot: RunSnapshot, plan: Plan, point: RunAt) -> None:
    used = {item.step for item in snapshot.items} | {slot.step for slot in snapshot.slots}
    used |= {step for scope in snapshot.scopes for _, step in scope.joins}
    missing = sorted(used - set(plan.by_name))
    if missing:
        raise ContextSerdeError(
            f"No run can continue from point {point.seq} of run {point.run_id!r} with workflow {plan.workflow!r} as it "
            f"is now: it has no step {', '.join(map(repr, missing))}. Load code that has them, or give code='recorded'."
        )


def edited_state(state: dict[str, Any], edit: StateEdit) -> dict[str, Any]:
    """A state's JSON values after an edit. A function may change `state` in place.

    Raises:
        WorkflowRuntimeError: The edit does not fit, does not result in a dict with text keys, or changes the key `''`.
    """
    kind = state.get("")
    if callable(edit):
        returned = edit(state)
        made = state if returned is None else returned
    elif isinstance(edit, Mapping):
        made = {key: value for key, value in (state | dict(edit)).items() if not (key in edit and edit[key] is None)}
    else:
        made = patched(state, edit)
    if not isinstance(made, dict):
        raise WorkflowRuntimeError(f"The edited state is a {type(made).__name__}; expected a dict by top-level keys.")
    if made.get("") != kind:
        raise WorkflowRuntimeError(
            "The edited state changes the key ''. Leave it as it is: it names the class of the state."
        )
    _checked([*made], "The keys of the edited state")
    return made


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) and json.dumps(one) == json.dumps(other)  # True is not 1
    except (TypeError, ValueError, RecursionError):
        return False


def _checked(value: Any, what: str, tags: Sequence[str] = ()) -> Any:
    """The value as strict JSON. With `tags`, an object that has one of them is wrapped, so that it stays data."""
    try:
        return to_tagged(value, _refuse, tags)
    except NotJson as flaw:
        raise WorkflowRuntimeError(f"{what} cannot be stored: {flaw}") from flaw


def _refuse(value: Any) -> NoReturn:
    raise NotJson(
        f"holds {type(value).__name__}, which JSON does not have", "Use values as `point.state()` returns them."
    )


def _with_events(items: Sequence[SavedItem], edits: Edits, point: RunAt, plan: Plan) -> Sequence[SavedItem]:
    given = dict(edits.events)
    found = []
    for item in items:
        alone = sum(each.step == item.step for each in items) == 1
        edit = given.pop(item.work_id, None) or (given.pop(item.step, None) if alone else None)
        if edit is not None:
            if len(item.events) != 1 or item.fan_in is not None:
                raise WorkflowRuntimeError(
                    f"Step {item.step!r} gathers {len(item.events)} events at point {point.seq} of run "
                    f"{point.run_id!r}; only the event of a step that takes a single one can be replaced."
                )
            event = edit if isinstance(edit, Envelope) else _with_fields(item.events[0], edit, item.step)
            accepts = plan.by_name[item.step].accepts
            if not any(event.is_a(name) for name in accepts):
                raise WorkflowRuntimeError(
                    f"Step {item.step!r} does not accept {event.type}; it accepts {', '.join(accepts)}."
                )
            edits.check_size(f"The {event.type} for step {item.step!r}", event.payload)
            edits.fits(event)
            item = replace(item, events=(event,), event_name=event.type)
        found.append(item)
    if given:
        there = ", ".join(f"{item.step} ({item.work_id})" for item in items) or "none"
        raise WorkflowRuntimeError(
            f"Events were given for {', '.join(map(repr, given))}, which does not name exactly one work item at point "
            f"{point.seq} of run {point.run_id!r}. Unfinished work there: {there}."
        )
    return found


def _with_fields(event: Envelope, fields: Mapping[str, Any], step: str) -> Envelope:
    value = json.loads(event.payload)
    if EXACT in value:
        raise WorkflowRuntimeError(
            f"The {event.type} for step {step!r} has values that are not plain JSON; its fields cannot be replaced one "
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
        # A field that the event's class declares is never read as a tagged value.
        into, tags = (value, ()) if name in value else (more, (TAG,))
        into[name] = _checked(new, f"Field {name!r} of the {event.type} for step {step!r}", tags)
    return replace(event, payload=json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
