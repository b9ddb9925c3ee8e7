"""What a run's stream says of its child runs, cancelled steps and joins. As built in as the events of `event.py`."""

from __future__ import annotations

from typing import Any

from .event import BUILT_IN_EVENTS, Event, InternalDispatchEvent, event_name


class ChildRunStarted(InternalDispatchEvent):
    """A step has started a child run.

    Attributes:
        run_id: The child's.
        workflow: Its workflow.
        step: The step that waits for it.
        on_parent_end: What becomes of it when this run ends before it: "cancel", "leave" or "wait".
    """

    run_id: str
    workflow: str
    step: str
    on_parent_end: str


class StepCancelled(InternalDispatchEvent):
    """An execution of a step was cancelled, and the run goes on.

    Attributes:
        step: The step.
        work_id: Its work item.
        reason: What was given as the reason; may be empty.
    """

    step: str
    work_id: str
    reason: str


class RunForked(InternalDispatchEvent):
    """The run goes on from a point of another run's past: its number there."""

    run_id: str
    seq: int


class WorkflowRewound(InternalDispatchEvent):
    """The run was put back to a point of its past; what was published since stays published."""

    seq: int


class JoinExpired(Event):
    """A set of events that a step joins did not become complete within its `within_seconds`; what had arrived is gone.

    It is on the stream, and goes to a step that accepts it.

    Attributes:
        step: The step.
        key: What the events have in common: the value of the step's `join_by`, as JSON.
        arrived: Names of the classes of the events that had arrived.
        missing: Names of the classes that were still awaited.
    """

    step: str
    key: Any = None
    arrived: list[str]
    missing: list[str]


BUILT_IN_EVENTS.update(
    {event_name(cls): cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Event)}
)
