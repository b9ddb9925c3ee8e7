"""A workflow's plan as a picture: which step hands which event to which. Pure; from the plan alone, not the classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..orchestration.plan import Plan, StepPlan

NodeKind = Literal["start", "step", "handler", "outside", "stop"]
EdgeKind = Literal["event", "fan-out", "failure"]

START, STOP, OUTSIDE = "start", "stop", "outside"

#: Opening and closing of a node in mermaid, which says what kind it is by its shape.
_SHAPES = {
    "start": ("([", "])"),
    "stop": ("([", "])"),
    "step": ("[", "]"),
    "handler": ("[/", "/]"),
    "outside": ("{{", "}}"),
}
_ARROWS = {"event": "-->", "fan-out": "==>", "failure": "-.->"}


@dataclass(frozen=True, slots=True)
class Node:
    """A step, or one of the ends: where a run begins and ends, and what is outside of it."""

    id: str
    kind: NodeKind
    label: str


@dataclass(frozen=True, slots=True)
class Edge:
    """An event on its way. `fan-out` is one of many; `failure` leads to a `@catch_error` step."""

    source: str
    target: str
    event: str
    kind: EdgeKind = "event"


@dataclass(frozen=True, slots=True)
class Graph:
    """A workflow drawn."""

    workflow: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def graph_of(plan: Plan) -> Graph:
    """Draw a plan. What a step sends with `send_event` is in no annotation, hence not in the picture."""
    edges = list(dict.fromkeys([*_emitted(plan), *_from_outside(plan), *_failures(plan)]))
    used = {end for edge in edges for end in (edge.source, edge.target)}
    ends = [
        Node(START, "start", "start"),
        *(Node(step.name, "handler" if step.recovers else "step", step.name) for step in plan.steps),
        Node(OUTSIDE, "outside", "outside"),
        Node(STOP, "stop", "stop"),
    ]
    names = {step.name for step in plan.steps}
    return Graph(plan.workflow, tuple(node for node in ends if node.id in used or node.id in names), tuple(edges))


def _emitted(plan: Plan) -> Iterable[Edge]:
    yield from (Edge(START, step.name, plan.start_event) for step in _taking(plan, plan.start_event))
    for step in plan.steps:
        for event in (*step.returns, *step.fans_out):
            kind: EdgeKind = "fan-out" if event in step.fans_out else "event"
            if event in plan.stop_events:
                yield Edge(step.name, STOP, event, kind)
                continue
            takers = _taking(plan, event)
            yield from (Edge(step.name, taker.name, event, kind) for taker in takers)
            if not takers:
                yield Edge(step.name, OUTSIDE, event, kind)


def _from_outside(plan: Plan) -> Iterable[Edge]:
    emitted = {event for step in plan.steps for event in (*step.returns, *step.fans_out)} | {plan.start_event}
    for step in plan.steps:
        if not step.recovers:
            yield from (Edge(OUTSIDE, step.name, event) for event in step.accepts if event not in emitted)


def _failures(plan: Plan) -> Iterable[Edge]:
    for handler in plan.handlers:
        for step in plan.steps:
            if plan.handler_of(step.name) is handler:
                yield Edge(step.name, handler.name, handler.accepts[0] if handler.accepts else "", "failure")


def _taking(plan: Plan, event: str) -> list[StepPlan]:
    return [step for step in plan.steps if event in step.accepts and not step.recovers]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _label(edge: Edge) -> str:
    name = _short(edge.event)
    return f"list[{name}]" if edge.kind == "fan-out" else name


def as_json(plan: Plan) -> dict[str, Any]:
    """The picture as data, with the limits of each step."""
    graph = graph_of(plan)
    return {
        "workflow": graph.workflow,
        "nodes": [asdict(node) for node in graph.nodes],
        "edges": [asdict(edge) for edge in graph.edges],
        "steps": [asdict(step) for step in plan.steps],
    }


def as_mermaid(plan: Plan) -> str:
    """The picture as a mermaid flowchart, which GitHub and many editors draw."""
    graph = graph_of(plan)
    # Numbered, because a step may be called like a word of mermaid's own, such as `end`.
    ids = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for node in graph.nodes:
        opening, closing = _SHAPES[node.kind]
        lines.append(f'    {ids[node.id]}{opening}"{node.label}"{closing}')
    lines.extend(
        f'    {ids[edge.source]} {_ARROWS[edge.kind]}|"{_label(edge)}"| {ids[edge.target]}' for edge in graph.edges
    )
    return "\n".join(lines)


def as_text(plan: Plan) -> str:
    """One line per step: what it takes, what it gives."""
    width = max((len(step.name) for step in plan.steps), default=0)
    lines = [plan.workflow]
    for step in _in_order(plan):
        taken = " & ".join(map(_short, step.accepts)) if step.kind == "join" else " | ".join(map(_short, step.accepts))
        if step.kind == "collect":
            taken = f"list[{taken}]"
        given = [*(_short(event) for event in step.returns), *(f"list[{_short(event)}]" for event in step.fans_out)]
        line = f"  {step.name:<{width}}  {taken} -> {' | '.join(given) or 'nothing'}"
        if step.recovers:
            covered = "any step" if step.recovers == ("*",) else ", ".join(step.recovers)
            line += f"   (catches failures of {covered})"
        lines.append(line)
    return "\n".join(lines)


def _in_order(plan: Plan) -> list[StepPlan]:
    """The steps as a run meets them, breadth first; those it never meets come last."""
    edges = graph_of(plan).edges
    met: dict[str, None] = {START: None}
    waiting = [START]
    while waiting:
        at = waiting.pop(0)
        for edge in edges:
            if edge.source == at and edge.target not in met:
                met[edge.target] = None
                waiting.append(edge.target)
    order = list(met)
    return sorted(plan.steps, key=lambda step: order.index(step.name) if step.name in met else len(order))
