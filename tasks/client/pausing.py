"""Pausing workflows and queues for the whole deployment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ...orchestration.engine.pausing.queues import pause_queue, resume_queue
from ...orchestration.engine.pausing.workflows import pause_workflow, pauses, resume_workflow
from ...orchestration.model.errors import WorkflowRuntimeError
from ..values.class_names import qualified_name
from ..workflow.definition import WorkflowDefinition
from .runtime import Runtime, current_runtime

Pausable = str | WorkflowDefinition | type[WorkflowDefinition]


@dataclass(frozen=True, slots=True)
class Paused:
    """A workflow or queue that is paused.

    Attributes:
        kind: "workflow" or "queue".
        name: The name used to pause it: for a workflow the full name or its last part.
        since: By the clock of Redis, in UTC.
    """

    kind: Literal["workflow", "queue"]
    name: str
    since: datetime


def pause(workflow: Pausable | None = None, *, queue: str | None = None, runtime: Runtime | None = None) -> None:
    """Stop workers from starting steps of a workflow or taking messages from a queue, until it is resumed. Blocks.

    Running steps continue. Runs can be started; they wait at their next step, and their time limits keep running.

    *Promise:* recorded in Redis, so it outlives all processes and applies to workers that start later. Running workers
    apply it within three of their sweeps. Nothing is lost.

    Args:
        workflow: Its class, an instance, or its name; the last part of the name is enough.
        queue: A queue instead.
        runtime: By default the current one.

    Raises:
        WorkflowRuntimeError: Neither or both are given.
        NotConfigured, StoreUnavailable: There is no Redis to ask.
    """
    runtime, name = runtime or current_runtime(), _name_of(workflow, queue)
    if queue is None:
        runtime.portal.call(pause_workflow(runtime.store, name))
    else:
        runtime.portal.call(pause_queue(runtime.store, name))


def resume(workflow: Pausable | None = None, *, queue: str | None = None, runtime: Runtime | None = None) -> bool:
    """Let workers continue with a paused workflow or queue; False if it was not paused under this name. Blocks.

    *Promise:* workers dispatch the work that was held back within three of their sweeps, even if this process dies.

    Args:
        workflow: As in `pause`.
        queue: As in `pause`.
        runtime: As in `pause`.

    Raises:
        WorkflowRuntimeError: Neither or both are given.
        NotConfigured, StoreUnavailable: There is no Redis to ask.
    """
    runtime, name = runtime or current_runtime(), _name_of(workflow, queue)
    if queue is None:
        return runtime.portal.call(resume_workflow(runtime.store, name))
    return runtime.portal.call(resume_queue(runtime.store, name))


def paused(*, runtime: Runtime | None = None) -> list[Paused]:
    """The paused workflows and queues of the deployment, workflows first. Blocks.

    Raises:
        NotConfigured, StoreUnavailable: There is no Redis to ask.
    """
    runtime = runtime or current_runtime()
    found = runtime.portal.call(pauses(runtime.store))
    kinds: tuple[tuple[Literal["workflow", "queue"], dict[str, int]], ...] = (
        ("workflow", dict(found.workflows)),
        ("queue", dict(found.queues)),
    )
    return [
        Paused(kind, name, datetime.fromtimestamp(since / 1000, UTC))
        for kind, names in kinds
        for name, since in sorted(names.items())
    ]


def _name_of(workflow: Pausable | None, queue: str | None) -> str:
    if (workflow is None) == (queue is None):
        raise WorkflowRuntimeError("Name either a workflow or a queue: umbel.pause(Order), umbel.pause(queue='gpu').")
    if isinstance(workflow, WorkflowDefinition):
        return workflow.workflow_name
    return workflow if isinstance(workflow, str) else qualified_name(workflow) if workflow is not None else str(queue)
