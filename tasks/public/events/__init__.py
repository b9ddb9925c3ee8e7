"""`umbel.events`: what steps pass to each other, and what a run reports about itself."""

from umbel.tasks.events.event import (
    DictLikeModel,
    Event,
    EventType,
    HumanResponseEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    UnreadableEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from umbel.tasks.events.exceptions import UnreconstructedException
from umbel.tasks.events.run_events import ChildRunStarted, JoinExpired, RunForked, StepCancelled, WorkflowRewound

__all__ = [
    "ChildRunStarted",
    "DictLikeModel",
    "Event",
    "EventType",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InternalDispatchEvent",
    "JoinExpired",
    "RunForked",
    "StartEvent",
    "StepCancelled",
    "StepFailedEvent",
    "StepState",
    "StepStateChanged",
    "StopEvent",
    "UnhandledEvent",
    "UnreadableEvent",
    "UnreconstructedException",
    "WorkflowCancelledEvent",
    "WorkflowFailedEvent",
    "WorkflowIdleEvent",
    "WorkflowRewound",
    "WorkflowTimedOutEvent",
]
