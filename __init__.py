"""umbel: event-driven workflows on Celery. The public names; what they do is said where they are defined."""

from .orchestration.errors import (
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
from .orchestration.settings import Settings
from .tasks.collect import All, Cardinality, Collect, Take
from .tasks.context import Context
from .tasks.decorators import StepConfig, catch_error, step
from .tasks.drawing import draw_all_possible_flows, draw_most_recent_execution
from .tasks.events import (
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
from .tasks.handler import WorkflowHandler
from .tasks.registry import register
from .tasks.remote_exceptions import UnreconstructedException
from .tasks.resource_config import ResourceConfig
from .tasks.resources import Resource
from .tasks.retry_policy import RetryInfo, RetryPolicy, retry_policy
from .tasks.runtime import Runtime, attach
from .tasks.serializers import JsonPickleSerializer, JsonSerializer
from .tasks.state_store import DictState
from .tasks.workflow import Workflow
from .workers.app import create_app, install
from .workers.local import local

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
