"""Events that a run's stream reports about its steps, child runs and joins. Built in, like those of `event.py`."""

from __future__ import annotations

from enum import Enum
from typing import Any

from .event import (
    BUILT_IN_EVENTS,
    CollectionReleaseEvent,
    Event,
    IdleReleasedEvent,
    InternalDispatchEvent,
    SleepEndedEvent,
    StepFailedEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
    event_name,
)


class StepState(Enum):
    """What a step execution is doing."""

    PREPARING = "preparing"
    RUNNING = "running"
    NOT_RUNNING = "not_running"


class StepStateChanged(InternalDispatchEvent):
    """A step execution was queued, began or ended.

    Attributes:
        name, step_state: The step, and its new state.
        worker_id: The slot it runs in; `<enqueued>` while it waits for one.
        input_event_name: The class of the event it consumes: its bare name (`StartEvent`) until the step has ended,
            then as `str(cls)` shows it (`<class 'umbel.events.StartEvent'>`), as in LlamaIndex Workflows.
        output_event_name: Likewise of the event it returned; None if it returned none or has not ended.
    """

    name: str
    step_state: StepState
    worker_id: str
    input_event_name: str
    output_event_name: str | None = None


class WorkflowIdleEvent(InternalDispatchEvent):
    """No step of the run is queued or running, and the run has not ended."""


class UnhandledEvent(InternalDispatchEvent):
    """An event was emitted that no step accepts.

    Attributes:
        event_type, qualified_name: The event's class name, and the same with its module.
        step_name: The step it was addressed to, if any.
        idle: Whether no step was queued or running when it arrived.
    """

    event_type: str
    qualified_name: str
    step_name: str | None = None
    idle: bool


class UnreadableEvent(Event):
    """Stands in a stream for an event that this process cannot read, or for events that left the log before being read.

    Reading continues after it. A step also publishes one if an answer that it waits for does not fit its class.

    Attributes:
        event_type: The event's class name; empty if not even that can be read.
        qualified_name: The same with its module.
        reason: The class is not loaded here or has changed, the entry is damaged, or which events are missing.
        payload: What was published, as JSON; empty for an answer.
    """

    event_type: str = ""
    qualified_name: str = ""
    reason: str
    payload: str = ""


class ChildRunStarted(InternalDispatchEvent):
    """A step has started a child run.

    Attributes:
        run_id: The child's.
        workflow: Its workflow.
        step: The step that waits for it.
        on_parent_end: What happens to the child if this run ends first: "cancel", "leave" or "wait".
    """

    run_id: str
    workflow: str
    step: str
    on_parent_end: str


class StepCancelled(InternalDispatchEvent):
    """An execution of a step was cancelled, and the run continues.

    Attributes:
        step: The step.
        work_id: Its work item.
        reason: The reason given; may be empty.
    """

    step: str
    work_id: str
    reason: str


class RunForked(InternalDispatchEvent):
    """The run continues from a point of another run's past.

    Attributes:
        run_id: The other run.
        seq: The number of the point in its history.
    """

    run_id: str
    seq: int


class WorkflowRewound(InternalDispatchEvent):
    """The run was set back to a point of its past; events published since then stay in the stream."""

    seq: int


class JoinExpired(Event):
    """The events that a step joins were not complete within its `within_seconds`; those that had arrived are dropped.

    It is published on the stream and delivered to a step that accepts it.

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

#: Event classes that only umbel creates. They are refused from outside: a step that handles failures trusts them.
SYSTEM_EVENTS = (
    StepFailedEvent,
    CollectionReleaseEvent,
    InternalDispatchEvent,
    WorkflowTimedOutEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    IdleReleasedEvent,
    SleepEndedEvent,
    UnreadableEvent,
)
