"""Events that people send into runs, as processes need them that have not loaded the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..events.event import Event, HumanResponseEvent, event_name
from ..values.typed_text import text_fields
from .definition import WorkflowDefinition


def texts_from_outside(workflows: Iterable[WorkflowDefinition]) -> dict[str, list[str]]:
    """Event -> its fields that are text, for all that steps accept and all answers to questions that are loaded.

    Events without a text field are left out.
    """
    accepted = (cls for workflow in workflows for cls in workflow.events)
    texts = {event_name(cls): text_fields(cls) for cls in (*accepted, *_below(HumanResponseEvent))}
    return {name: fields for name, fields in texts.items() if fields}


def _below(cls: type[Event]) -> Iterator[type[Event]]:
    for each in cls.__subclasses__():
        yield each
        yield from _below(each)
