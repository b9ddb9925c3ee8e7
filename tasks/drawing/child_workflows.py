"""Finds the workflows that steps start, by reading the steps' source, and adds their graphs to that of the parent.

In a step, a call `Other(...)` counts as starting `Other` if that name refers to a workflow class there. Workflows
created elsewhere and passed in are not found. Nothing is called, and children of children are not searched.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from ..steps.discovery import steps_of
from ..workflow.definition import WorkflowDefinition
from .representation import WorkflowEventNode, WorkflowGenericNode, WorkflowGraph, WorkflowGraphEdge
from .representation_builder import get_workflow_representation

#: Type of the nodes between a step and the workflow it starts.
CHILD_CONNECTOR = "child_connector"


def with_child_workflows(workflow: WorkflowDefinition | type[WorkflowDefinition]) -> WorkflowGraph:
    """The graph of a workflow, with the graphs of the workflows that its steps start.

    Ids of a child's nodes begin with the step and the child's name. Two nodes of type `child_connector` connect it in
    both directions.
    """
    cls = workflow if isinstance(workflow, type) else type(workflow)
    graph = get_workflow_representation(cls)
    for name, config in steps_of(cls).items():
        for child in _children(config.function):
            if child is not cls:
                _attach(graph, name, child)
    return graph


def _children(function: Callable[..., Any]) -> list[type[WorkflowDefinition]]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # defined in a console, or by generated code
        return []
    names = _names_of(function)
    called = (_resolve(node.func, names) for node in ast.walk(tree) if isinstance(node, ast.Call))
    found = (each for each in called if isinstance(each, type) and issubclass(each, WorkflowDefinition))
    return [each for each in dict.fromkeys(found) if steps_of(each)]


def _names_of(function: Callable[..., Any]) -> dict[str, Any]:
    plain = inspect.unwrap(function)
    try:
        around = inspect.getclosurevars(plain).nonlocals
    except (TypeError, ValueError):  # not a function, or one that refers to a name that is not assigned yet
        around = {}
    return {**getattr(plain, "__globals__", {}), **around}


def _resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """The object that a dotted name refers to; None for other expressions. Only modules and classes are looked into."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        return vars(owner).get(node.attr) if inspect.ismodule(owner) or isinstance(owner, type) else None
    return None


def _attach(graph: WorkflowGraph, step: str, child: type[WorkflowDefinition]) -> None:
    inner = get_workflow_representation(child)
    prefix = f"{step}_{inner.name}_"
    graph.nodes.extend(node.model_copy(update={"id": prefix + node.id}) for node in inner.nodes)
    graph.edges.extend(
        edge.model_copy(update={"source": prefix + edge.source, "target": prefix + edge.target}) for edge in inner.edges
    )
    calls, returns = f"{prefix}calls", f"{prefix}returns"
    for node_id, word in ((calls, "calls"), (returns, "returns")):
        graph.nodes.append(WorkflowGenericNode(id=node_id, label=f"{word}: {inner.name}", node_type=CHILD_CONNECTOR))
    graph.edges.extend(
        WorkflowGraphEdge(source=source, target=target)
        for source, target in [
            (step, calls),
            *((calls, prefix + start) for start in _events(inner, "StartEvent")),
            *((prefix + stop, returns) for stop in _events(inner, "StopEvent")),
            (returns, step),
        ]
    )


def _events(graph: WorkflowGraph, parent: str) -> Iterator[str]:
    return (node.id for node in graph.nodes if isinstance(node, WorkflowEventNode) and node.is_subclass_of(parent))
