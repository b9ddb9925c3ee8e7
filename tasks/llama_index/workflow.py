"""The class that `workflows.Workflow` refers to in a program that was written for LlamaIndex."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from ...orchestration.model.errors import UmbelError
from ..client.handler import WorkflowHandler
from ..client.workflow import Workflow
from ..events.event import StartEvent
from ..values.class_names import qualified_name
from ..workflow.definition import WorkflowDefinition

logger = logging.getLogger("umbel.llama_index")


class WorkflowMeta(type):
    """The class of workflow classes, from which LlamaIndex's agents derive theirs."""


class LlamaIndexWorkflow(Workflow, metaclass=WorkflowMeta):
    """A `Workflow` that LlamaIndex's programs and its own agents can derive from.

    Agents of one class run side by side in a worker. Each is registered under its class and its own name, as
    `llama_index.core.agent.workflow.function_agent.FunctionAgent:writer`; an `AgentWorkflow` is registered under the
    name of its root agent.

    Values that an `async def` step gets from `ctx.store` and changes in place, without setting them again, are written
    when the step ends: see `tasks/state/write_back`.
    """

    writes_back = True

    @property
    def workflow_name(self) -> str:
        """The name runs are stored and found under, on every machine."""
        name, agent = qualified_name(type(self)), agent_name(self)
        return self._workflow_name or (name if agent is None else f"{name}:{agent}")

    def _has_begun(self, handler: WorkflowHandler[Any], event: StartEvent | None) -> None:
        given = None if event is None else getattr(event, "memory", None)
        if agent_name(self) is not None and isinstance(given, BaseModel):
            handler.at_end(lambda: _take_over(handler, given))


async def _take_over(handler: WorkflowHandler[Any], given: BaseModel) -> None:
    """Copy the run's memory into the memory that an agent was called with: LlamaIndex changes that in place."""
    try:
        remembered = await handler.ctx.store.get("memory", default=None)
    except UmbelError as error:
        logger.warning(
            "The memory passed to run %s does not contain what the run remembered: %s",
            handler.run_id,
            error,
            extra={"action": "memory_not_taken"},
        )
    else:
        _become(given, remembered)


def _become(given: BaseModel, other: Any) -> None:
    if type(other) is not type(given):
        return
    for name, field in type(given).model_fields.items():
        mine, theirs = given.__dict__.get(name), other.__dict__.get(name)
        if field.exclude:
            continue
        if type(theirs) is type(mine) and isinstance(mine, BaseModel):
            _become(mine, theirs)  # the caller may hold this one too, such as a chat store
        else:
            given.__dict__[name] = theirs


def agent_name(workflow: object) -> str | None:
    """The name of an agent of LlamaIndex, or of the root agent of several; None for everything else."""
    if not isinstance(workflow, LlamaIndexWorkflow):
        return None
    # An agent is a pydantic model with a field `name`.
    if "name" in getattr(type(workflow), "model_fields", ()):
        name = getattr(workflow, "name", None)
    else:
        name = getattr(workflow, "root_agent", None) if isinstance(getattr(workflow, "agents", None), dict) else None
    return name if isinstance(name, str) else None


def module_with(workflow: WorkflowDefinition) -> ModuleType | None:
    """The loaded module that has this workflow object as a variable, `__main__` first; None if none has."""
    modules = [sys.modules.get("__main__"), *sys.modules.values()]
    return next((each for each in modules if any(value is workflow for value in _variables(each))), None)


def _variables(module: ModuleType | None) -> list[object]:
    return list(getattr(module, "__dict__", {}).values())
