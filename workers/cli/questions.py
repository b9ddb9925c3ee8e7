"""The open questions of a run, as shown to people: the text, its time limit, and the command that answers it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...orchestration.engine.worker_directory import seen_workers
from ...orchestration.inspection.run_detail import read_detail
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.tagged_json import fields_of
from ...orchestration.store.verbs import Store
from ...tasks.events.event import Event, HumanResponseEvent, event_name, loaded_event
from ...tasks.values.described_fields import model_of
from .output import instant


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A step that waits for an event from outside.

    Attributes:
        id: Stays the same as long as the same wait lasts.
        step: The step.
        event: Class name of the event it waits for.
        asked: The question's text; empty if none was published.
        until: When the wait ends, in Redis ms; None if it has no limit.
        fields: What the answer needs, as `key=value` words.
    """

    id: str
    step: str
    event: str
    asked: str
    until: int | None
    fields: tuple[str, ...]

    def lines(self, run_id: str) -> list[str]:
        """The lines to print."""
        asked = f": {self.asked}" if self.asked else ""
        limit = f" (until {instant(self.until)})" if self.until is not None else ""
        answer = " ".join((self.event, *self.fields))
        return [f"Waiting for {self.event}{asked}{limit}", f"  Answer with: umbel send {run_id} {answer}"]


async def open_questions(store: Store, run_id: str, classes: Iterable[type[Event]] = ()) -> list[OpenQuestion]:
    """What the steps of a run wait for in `wait_for_event`.

    Args:
        store: The deployment.
        run_id: The run.
        classes: Further event classes whose fields are known.

    Raises:
        RunNotFound: There is no such run.
        StoreUnavailable: Redis did not answer.
    """
    found = (await read_detail(store, run_id)).questions
    if not found:
        return []
    known = await announced_events(store) | {event_name(cls): cls for cls in classes}
    names = [f"waiter|{run_id}|{each.waiter.work_id}|{each.waiter.waiter_id}" for each in found]
    limits = await store.command("look at time limits", "ZMSCORE", store.locate(run_id)["timers"], *names)
    return [
        OpenQuestion(
            id=name,
            step=each.waiter.step,
            event=each.waiter.event_type.rpartition(".")[2],
            asked=question_text(each.asked),
            until=None if limit is None else int(float(limit)),
            fields=answer_fields(
                loaded_event(each.waiter.event_type) or known.get(each.waiter.event_type), each.waiter.requirements
            ),
        )
        for each, name, limit in zip(found, names, limits, strict=True)
    ]


async def announced_events(store: Store) -> dict[str, type[Event]]:
    """Classes with the fields of the events from outside that the workers announce, by wire name.

    Fields that are not required default to None, whatever their type. What plain types do not express (limits,
    validators, models) is checked by the worker that accepts the event.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    found = {name: fields for worker in await seen_workers(store) for name, fields in worker.events.items()}
    split = ((name, *name.rpartition("."), fields) for name, fields in found.items())
    return {name: model_of(fields, last, module, Event) for name, module, _, last, fields in split}


def question_text(asked: Envelope | None) -> str:
    """The text of a published question: its only text field, else all its fields as JSON."""
    if asked is None:
        return ""
    fields = fields_of(asked.value())
    texts = [field for field in fields.values() if isinstance(field, str)]
    if len(texts) == 1:
        return texts[0].strip()
    return json.dumps(fields, ensure_ascii=False) if fields else ""


def answer_fields(cls: type[Event] | None, given: Mapping[str, Any]) -> tuple[str, ...]:
    """`key=value` for values that the answer must have, `key=…` for required fields that people fill in."""
    required = [name for name, field in cls.model_fields.items() if field.is_required()] if cls is not None else []
    if cls is HumanResponseEvent and not given:
        required = ["response"]  # it declares no field; by convention its answer has this name
    filled = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
    return (*filled, *(f"{name}=…" for name in required if name not in given))
