"""How a run's end appears to its caller: as a result or an exception."""

from __future__ import annotations

from typing import Any

from ...orchestration.model.errors import WorkflowCancelledByUser, WorkflowTimeoutError
from ..events.event import StopEvent, WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent


def result_of(run_id: str, event: StopEvent) -> Any:
    """The result of a run that ended with `event`: the `result` of a `StopEvent`, or a subclass's event itself.

    Raises:
        WorkflowTimeoutError, WorkflowCancelledByUser: The run ended this way.
        Exception: The run failed: the exception that its step raised, of its own type.
    """
    if isinstance(event, WorkflowCancelledEvent):
        raise WorkflowCancelledByUser(f"Run {run_id!r} was cancelled.")
    if isinstance(event, WorkflowTimedOutEvent):
        active = ", ".join(event.active_steps)
        tail = f"Currently active steps: {active}" if active else "No steps active"
        raise WorkflowTimeoutError(f"Operation timed out after {event.timeout} seconds. {tail}")
    if isinstance(event, WorkflowFailedEvent):
        error = event.exception
        try:
            raise error
        finally:
            del error, event  # the error refers to this frame: it must not refer to the error
    return event.result if type(event) is StopEvent else event
