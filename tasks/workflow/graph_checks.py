"""The three graph checks of a workflow. An author may switch them off for the workflow, and two of them for a step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from ..events.event import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from ..events.run_events import JoinExpired
from ..steps.decorators import StepConfig

GraphCheck = Literal["reachability", "terminal_event", "dead_end"]

#: A step's name or an event class.
_Node: TypeAlias = str | type[Event]
_Edges: TypeAlias = Mapping[_Node, Collection[_Node]]


def graph_problems(
    steps: Mapping[str, StepConfig], start: type[StartEvent], skip: Collection[GraphCheck] = ()
) -> Iterator[str]:
    """Yield the problems that the graph checks find, as one two-line text for each failed check.

    Args:
        steps: The steps by name.
        start: The event a run begins with.
        skip: Checks to leave out for all steps.
    """
    forward = _edges(steps, start)
    events = [node for node in forward if isinstance(node, type)]
    if "reachability" not in skip:
        arriving = [event for event in events if event is start or issubclass(event, HumanResponseEvent | JoinExpired)]
        handlers = [name for name, config in steps.items() if config.recovers]
        reached = _reach([*arriving, *handlers], forward)
        if lost := _left(steps, steps.keys() - reached, "reachability"):
            yield (
                f"  - [reachability] Unreachable steps: {lost}\n"
                "    Steps must be reachable from StartEvent or HumanResponseEvent."
            )
    if "terminal_event" not in skip:
        ends = sorted(event.__name__ for event in events if not forward[event] and not _leaves(event))
        if ends:
            yield (
                f"  - [terminal_event] Events produced but never consumed: {', '.join(ends)}\n"
                "    Only StopEvent and InputRequiredEvent may be terminal."
            )
    if "dead_end" not in skip:
        producing = {name for name in steps if forward[name]}
        alive = _reach([event for event in events if _leaves(event)], _reversed(forward))
        if dead := _left(steps, producing - alive, "dead_end"):
            yield (
                f"  - [dead_end] Dead-end steps: {dead}\n    Steps must have a path to StopEvent or InputRequiredEvent."
            )


def _edges(steps: Mapping[str, StepConfig], start: type[StartEvent]) -> dict[_Node, list[_Node]]:
    """From each event to the steps that accept it, and from each step to the events it may emit."""
    events: dict[type[Event], None] = {start: None}
    for config in steps.values():
        events |= dict.fromkeys([*config.accepted_events, *config.emits])
    edges: dict[_Node, list[_Node]] = {}
    for event in events:
        edges[event] = [name for name, config in steps.items() if config.accepts(event)]
    for name, config in steps.items():
        edges[name] = [*config.emits]
    return edges


def _reversed(edges: _Edges) -> dict[_Node, list[_Node]]:
    backward: dict[_Node, list[_Node]] = {node: [] for node in edges}
    for node, targets in edges.items():
        for target in targets:
            backward[target].append(node)
    return backward


def _reach(seeds: Iterable[_Node], edges: _Edges) -> set[_Node]:
    reached: set[_Node] = set()
    waiting = list(seeds)
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(edges[node])
    return reached


def _leaves(event: type[Event]) -> bool:
    return issubclass(event, StopEvent | InputRequiredEvent)


def _left(steps: Mapping[str, StepConfig], names: Collection[_Node], check: Literal["reachability", "dead_end"]) -> str:
    return ", ".join(name for name in steps if name in names and check not in steps[name].skip_graph_checks)
