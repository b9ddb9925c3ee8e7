"""Events that people send into runs, described for processes that have not loaded the workflows' code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..events.event import Event, HumanResponseEvent, event_name
from ..steps.discovery import steps_of
from ..values.described_fields import described
from .definition import WorkflowDefinition


def events_from_outside(workflows: Iterable[WorkflowDefinition]) -> dict[str, Any]:
    """Event name -> fields (see `described`) of all events that may be sent from outside.

    These are all loaded subclasses of `HumanResponseEvent`, and events that a step accepts but no step returns.
    """
    found = set(_below(HumanResponseEvent))
    for workflow in workflows:
        steps = steps_of(type(workflow)).values()
        emitted = {cls for step in steps for cls in step.emits}
        found |= {cls for step in steps for cls in step.accepted_events} - emitted
    return {event_name(cls): described(cls) for cls in found if cls.__module__ != Event.__module__}


def _below(cls: type[Event]) -> Iterator[type[Event]]:
    for each in cls.__subclasses__():
        yield each
        yield from _below(each)
