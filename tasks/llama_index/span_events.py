"""`workflows.runtime.types.step_function`: the events that instrumentation listeners get about spans of steps and runs.

The module needs the package `llama_index_instrumentation`, which `llama-index-core` depends on.
"""

from __future__ import annotations

from llama_index_instrumentation.base import BaseEvent


class SpanCancelledEvent(BaseEvent):
    """A span ends because its step or run was cancelled, with the reason."""

    reason: str

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers see."""
        return "SpanCancelledEvent"


class WorkflowStepOutputEvent(BaseEvent):
    """A step has returned an event, here abbreviated."""

    output: str

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers see."""
        return "step.output"


class WorkflowRunOutputEvent(BaseEvent):
    """A run has ended with an event, here abbreviated."""

    output: str

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers see."""
        return "workflow.output"
