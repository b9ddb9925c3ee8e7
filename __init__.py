"""umbel: event-driven workflows on Celery. The public names; what they do is said where they are defined."""

from .orchestration.model.errors import (
    ConfigurationError,
    ContextSerdeError,
    ContextStateError,
    HandlerRunning,
    NotConfigured,
    PayloadTooLarge,
    RunClosed,
    RunError,
    RunExists,
    RunNotFound,
    StepTimeoutError,
    StoreUnavailable,
    UmbelError,
    UnknownEvent,
    UnserializableValue,
    WorkerLost,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowDone,
    WorkflowFailed,
    WorkflowRuntimeError,
    WorkflowStepDoesNotExistError,
    WorkflowTimeoutError,
    WorkflowValidationError,
)
from .orchestration.store.settings import Settings
from .tasks.client.handler import WorkflowHandler
from .tasks.client.runtime import Runtime, attach
from .tasks.client.workflow import Workflow
from .tasks.context.ctx import Context
from .tasks.drawing.draw import draw_all_possible_flows, draw_most_recent_execution
from .tasks.events.event import (
    DictLikeModel,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    InternalDispatchEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from .tasks.events.exceptions import UnreconstructedException
from .tasks.events.serializers import JsonPickleSerializer, JsonSerializer
from .tasks.resources.config import ResourceConfig
from .tasks.resources.resource import Resource
from .tasks.retry.policy import RetryInfo, RetryPolicy, retry_policy
from .tasks.state.store import DictState
from .tasks.steps.collect import All, Cardinality, Collect, Take
from .tasks.steps.decorators import StepConfig, catch_error, step
from .tasks.workflow.registry import register
from .workers.celery_app.app import create_app, install
from .workers.local.deployment import local

__all__ = [
    "All",
    "Cardinality",
    "Collect",
    "ConfigurationError",
    "Context",
    "ContextSerdeError",
    "ContextStateError",
    "DictLikeModel",
    "DictState",
    "Event",
    "HandlerRunning",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InternalDispatchEvent",
    "JsonPickleSerializer",
    "JsonSerializer",
    "NotConfigured",
    "PayloadTooLarge",
    "Resource",
    "ResourceConfig",
    "RetryInfo",
    "RetryPolicy",
    "RunClosed",
    "RunError",
    "RunExists",
    "RunNotFound",
    "Runtime",
    "Settings",
    "StartEvent",
    "StepConfig",
    "StepFailedEvent",
    "StepState",
    "StepStateChanged",
    "StepTimeoutError",
    "StopEvent",
    "StoreUnavailable",
    "Take",
    "UmbelError",
    "UnhandledEvent",
    "UnknownEvent",
    "UnreconstructedException",
    "UnserializableValue",
    "WorkerLost",
    "Workflow",
    "WorkflowCancelledByUser",
    "WorkflowCancelledEvent",
    "WorkflowConfigurationError",
    "WorkflowDone",
    "WorkflowFailed",
    "WorkflowFailedEvent",
    "WorkflowHandler",
    "WorkflowIdleEvent",
    "WorkflowRuntimeError",
    "WorkflowStepDoesNotExistError",
    "WorkflowTimedOutEvent",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
    "attach",
    "catch_error",
    "create_app",
    "draw_all_possible_flows",
    "draw_most_recent_execution",
    "install",
    "local",
    "register",
    "retry_policy",
    "step",
]
