"""What a run's stream says of its child runs, cancelled steps and joins. As built in as the events of `event.py`."""

from __future__ import annotations

from .event import BUILT_IN_EVENTS, Event, InternalDispatchEvent, event_name


class ChildRunStarted(InternalDispatchEvent):
    """A step has started a child run.

    Attributes:
        run_id: The child's.
        workflow: Its workflow.
        step: The step that waits for it.
        on_parent_end: What becomes of it when this run ends before it: "cancel" or "leave".
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


BUILT_IN_EVENTS.update(
    {event_name(cls): cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Event)}
)
