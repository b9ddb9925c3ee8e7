"""What `workflows.Workflow` is in a program that was written for LlamaIndex."""

from __future__ import annotations

import sys
from types import ModuleType

from ..client.workflow import Workflow
from ..values.class_names import qualified_name
from ..workflow.definition import WorkflowDefinition


class WorkflowMeta(type):
    """The class of workflow classes, from which LlamaIndex's agents derive theirs."""


class LlamaIndexWorkflow(Workflow, metaclass=WorkflowMeta):
    """A `Workflow` that LlamaIndex's programs and its own agents can derive from.

    Agents of one class run beside each other in a worker: each is registered under its class and its own name, as
    `llama_index.core.agent.workflow.function_agent.FunctionAgent:writer`, an `AgentWorkflow` under that of its root
    agent.

    What an `async def` step got from `ctx.store` and changed in place, without setting it again, is written when the
    step ends: see `tasks/state/write_back`.
    """

    writes_back = True

    @property
    def workflow_name(self) -> str:
        """The name runs are stored and found under, on every machine."""
        name, agent = qualified_name(type(self)), agent_name(self)
        return self._workflow_name or (name if agent is None else f"{name}:{agent}")


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
    """The loaded module that has this very workflow as a variable, the program's own first; None if none has."""
    modules = [sys.modules.get("__main__"), *sys.modules.values()]
    return next((each for each in modules if any(value is workflow for value in _variables(each))), None)


def _variables(module: ModuleType | None) -> list[object]:
    return list(getattr(module, "__dict__", {}).values())
