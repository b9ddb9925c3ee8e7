"""A `WorkflowGraph` as a picture: all paths that events can take."""

from __future__ import annotations

from .picture import Arrow, Box, Line, Look, Picture, shortened
from .representation import (
    EdgeKind,
    WorkflowEventNode,
    WorkflowGraph,
    WorkflowGraphNode,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
)

_LOOKS: dict[str, Look] = {
    "step": "step",
    "external": "external",
    "resource": "resource",
    "resource_config": "config",
    "child_connector": "child",
}
_LINES: dict[EdgeKind | None, Line] = {"fan-out": "thick", "fan-in": "thick", "failure": "dashed", None: "plain"}


def flow_picture(graph: WorkflowGraph, max_label_length: int | None = None) -> Picture:
    """Draw a workflow's structure.

    Args:
        graph: The structure.
        max_label_length: Longer labels are cut; hovering shows the full text. None cuts nothing.
    """
    nodes = {node.id: node for node in graph.nodes}
    steps = [nodes[name] for name in steps_in_order(graph)]
    return Picture(
        title=graph.name,
        summary=first_line(graph.description),
        boxes=tuple(_box(node, max_label_length) for node in _in_order(graph)),
        arrows=tuple(
            Arrow(edge.source, edge.target, shortened(edge.label or "", max_label_length), _LINES[edge.kind])
            for edge in graph.edges
        ),
        headings=("Step", "Accepts", "Emits", "Resources", "Description"),
        rows=tuple(
            (
                node.label,
                _accepted(graph, node.id),
                _emitted(graph, node.id),
                _resources(graph, node.id),
                first_line(getattr(node, "description", None)),
            )
            for node in steps
        ),
    )


def steps_in_order(graph: WorkflowGraph) -> list[str]:
    """Ids of the steps in the order in which a run reaches them, breadth first; unreachable ones come last."""
    leaving: dict[str, list[str]] = {}
    for edge in sorted(graph.edges, key=lambda edge: edge.kind == "failure"):
        leaving.setdefault(edge.source, []).append(edge.target)
    met = dict.fromkeys(node.id for node in graph.nodes if _is_a(node, "StartEvent"))
    waiting = list(met)
    while waiting:
        for target in leaving.get(waiting.pop(0), []):
            if target not in met:
                met[target] = None
                waiting.append(target)
    steps = [node.id for node in graph.nodes if node.node_type == "step"]
    order = {name: number for number, name in enumerate(met)}
    return sorted(steps, key=lambda step: order.get(step, len(order)))


def first_line(text: str | None) -> str:
    """The first line of a docstring."""
    return (text or "").strip().partition("\n")[0]


def _in_order(graph: WorkflowGraph) -> list[WorkflowGraphNode]:
    """Start events first, so that the drawing begins with them and breaks cycles at the arrows back to them."""
    return sorted(graph.nodes, key=lambda node: not _is_a(node, "StartEvent"))


def _is_a(node: WorkflowGraphNode, event: str) -> bool:
    return isinstance(node, WorkflowEventNode) and node.is_subclass_of(event)


def _box(node: WorkflowGraphNode, max_label_length: int | None) -> Box:
    look: Look = _LOOKS.get(node.node_type, "event")
    if _is_a(node, "StartEvent"):
        look = "start"
    elif _is_a(node, "StopEvent"):
        look = "stop"
    return Box(node.id, look, shortened(node.label, max_label_length), title=_title(node))


def _title(node: WorkflowGraphNode) -> str:
    lines = [node.label]
    match node:
        case WorkflowEventNode():
            lines[0] = " < ".join(node.event_types)
            lines += [f"{name}: {_type(field)}" for name, field in _fields(node).items()]
        case WorkflowResourceNode():
            lines += [f"created by {node.getter_name}"] if node.getter_name else []
            lines += [first_line(node.description)]
        case WorkflowResourceConfigNode():
            lines += [f"from {node.config_file}"] if node.config_file else []
            lines += [f"part {node.path_selector}"] if node.path_selector else []
            lines += [first_line(node.description)]
        case _:
            lines += [first_line(getattr(node, "description", None))]
    return "\n".join(line for line in lines if line)


def _fields(node: WorkflowEventNode) -> dict[str, dict[str, object]]:
    fields: dict[str, dict[str, object]] = (node.event_schema or {}).get("properties", {})
    return fields


def _type(field: dict[str, object]) -> str:
    return str(field.get("type") or field.get("$ref", "any")).rpartition("/")[2]


def _accepted(graph: WorkflowGraph, step: str) -> str:
    labels = {node.id: node.label for node in graph.nodes if node.node_type == "event"}
    found = [edge for edge in graph.edges if edge.target == step and edge.source in labels]
    return ", ".join(f"list[{labels[e.source]}]" if e.kind == "fan-in" else labels[e.source] for e in found)


def _emitted(graph: WorkflowGraph, step: str) -> str:
    labels = {node.id: node.label for node in graph.nodes if node.node_type == "event"}
    found = [edge for edge in graph.edges if edge.source == step and edge.target in labels and edge.kind != "failure"]
    return ", ".join(f"list[{labels[e.target]}]" if e.kind == "fan-out" else labels[e.target] for e in found)


def _resources(graph: WorkflowGraph, step: str) -> str:
    resources = {node.id: node.label for node in graph.nodes if node.node_type in ("resource", "resource_config")}
    return ", ".join(
        f"{e.label}: {resources[e.target]}" for e in graph.edges if e.source == step and e.target in resources
    )
