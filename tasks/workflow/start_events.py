"""The start event of a run, from its caller's arguments."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import WorkflowRuntimeError
from ..events.event import StartEvent, event_name
from ..steps.discovery import steps_of
from ..values.plain_fields import input_names
from .definition import WorkflowDefinition
from .source import uses_start_event

#: The run option that holds it.
START_EVENT = "start_event"

logger = logging.getLogger("umbel.runtime")


def start_event_for(workflow: WorkflowDefinition, given: StartEvent | None, fields: dict[str, Any]) -> StartEvent:
    """The start event of a run, from an instance or from fields.

    Raises:
        ValueError: `given` is not a start event.
        WorkflowRuntimeError: The fields are invalid, or `given` is of a class that the workflow does not take.
    """
    cls = workflow.start_event_class
    if given is not None:
        if not isinstance(given, StartEvent):
            raise ValueError(f"start_event must be a StartEvent, got {type(given).__name__}.")
        if fields:
            logger.warning(
                "run() of %s got a start event and keyword arguments; %s ignored",
                workflow.workflow_name,
                ", ".join(fields),
                extra={"action": "start_arguments_ignored"},
            )
        names = {event_name(each) for each in type(given).__mro__ if issubclass(each, StartEvent)}
        taken = {event_name(each) for config in steps_of(type(workflow)).values() for each in config.accepted_events}
        advice = f"Give run() a {cls.__name__}, or its fields as keyword arguments."
        if event_name(cls) in names and (event_name(type(given)) in taken or _take_subclasses(workflow)):
            return given
        if event_name(cls) in names:
            advice += " Steps take subclasses with @step(accept_event_subclasses=True)."
        raise WorkflowRuntimeError(
            f"{workflow.workflow_name!r} takes a {cls.__name__}, got a {type(given).__name__}, which no step takes. "
            f"{advice}"
        )
    try:
        return cls(**fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False)
        )
        raise WorkflowRuntimeError(
            f"Failed creating a start event of type {cls.__name__} for workflow {workflow.workflow_name!r}: "
            f"{problems}. Its fields: {', '.join(input_names(cls)) or 'none'}."
        ) from error


def _take_subclasses(workflow: WorkflowDefinition) -> bool:
    return any(config.accept_event_subclasses for config in steps_of(type(workflow)).values())


def kept_start_event(workflow: WorkflowDefinition, event: Envelope | None) -> dict[str, Any]:
    """The run options that keep a start event for all attempts of the run: see `ctx.start_event`.

    Empty if the workflow's code does not mention `start_event`.
    """
    if event is None or not uses_start_event(type(workflow)):
        return {}
    return {START_EVENT: event.to_bytes().decode()}
