"""Builds a workflow's `WorkflowGraph` from its steps' signatures."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping

from ..events.event import Event, HumanResponseEvent, InputRequiredEvent, StepFailedEvent
from ..steps.decorators import StepConfig
from ..steps.discovery import steps_of
from ..steps.signature import ResourceDefinition
from ..values.class_names import qualified_name
from ..workflow.definition import WorkflowDefinition
from .representation import (
    EXTERNAL,
    EdgeKind,
    WorkflowEventNode,
    WorkflowExternalNode,
    WorkflowGraph,
    WorkflowGraphEdge,
    WorkflowGraphNode,
    WorkflowStepNode,
)
from .representation_resources import model_schema, needed_by, resource_key, resource_node


def get_workflow_representation(
    workflow: WorkflowDefinition | type[WorkflowDefinition], *, include_config_values: bool = False
) -> WorkflowGraph:
    """The structure of a workflow, from its class alone; it need not be valid. No step or factory is called.

    Args:
        workflow: A workflow or its class.
        include_config_values: Read the files of its `ResourceConfig`s into `config_value`. They may hold secrets: leave
            it off where others can read the result.
    """
    cls = workflow if isinstance(workflow, type) else type(workflow)
    steps = steps_of(cls)
    builder = _Builder(steps, include_config_values)
    for config in steps.values():
        builder.add_nodes(config)
    for config in steps.values():
        builder.add_edges(config)
    # Its own docstring: an inherited one would be `Workflow`'s.
    description = inspect.cleandoc(cls.__doc__) if cls.__doc__ else None
    return WorkflowGraph(
        name=cls.__name__, nodes=list(builder.nodes.values()), edges=builder.edges, description=description
    )


class _Builder:
    def __init__(self, steps: Mapping[str, StepConfig], with_values: bool) -> None:
        self.steps = steps
        self._with_values = with_values
        self.nodes: dict[str, WorkflowGraphNode] = {}
        self.edges: list[WorkflowGraphEdge] = []
        self._event_ids: dict[type[Event], str] = {}
        self._resource_ids: dict[Hashable, str] = {}

    # -- nodes -----------------------------------------------------------------------------------------------------

    def add_nodes(self, config: StepConfig) -> None:
        """The step, then the events and resources it is the first to mention."""
        description = inspect.getdoc(config.function)
        self.nodes[config.name] = WorkflowStepNode(id=config.name, label=config.name, description=description)
        for event in (*config.accepted_events, *config.emits):
            self._add_event(event)
            if issubclass(event, InputRequiredEvent | HumanResponseEvent):
                self.nodes.setdefault(EXTERNAL, WorkflowExternalNode(id=EXTERNAL, label=EXTERNAL))
        for definition in config.resources:
            self._add_resource(definition)

    def _add_event(self, event: type[Event]) -> None:
        if event in self._event_ids:
            return
        name = event.__name__
        # Another event class or a step has that name already: the short name would merge two nodes.
        taken = name in self.steps or name in self._event_ids.values()
        node_id = self._event_ids[event] = qualified_name(event) if taken else name
        parents = [cls.__name__ for cls in event.__mro__[1:] if issubclass(cls, Event) and cls is not Event]
        self.nodes[node_id] = WorkflowEventNode(
            id=node_id,
            label=name,
            event_type=name,
            event_types=[name, *parents],
            event_schema=model_schema(event),
            produced_by=[step.name for step in self.steps.values() if event in step.emits],
        )

    def _add_resource(self, definition: ResourceDefinition) -> str:
        """Add a resource and everything it depends on; returns its id."""
        key = resource_key(definition)
        if key not in self._resource_ids:
            node = resource_node(definition, with_value=self._with_values)
            if node.id in self.nodes:  # two factories with one name and file, or one file read as two types
                node = node.model_copy(update={"id": f"{node.id}_{len(self._resource_ids)}"})
            self._resource_ids[key] = node.id
            self.nodes[node.id] = node
            for needed in needed_by(definition):
                self._add_edge(node.id, self._add_resource(needed), label=needed.name)
        return self._resource_ids[key]

    # -- edges -----------------------------------------------------------------------------------------------------

    def add_edges(self, config: StepConfig) -> None:
        """What the step emits, what it accepts, and what is injected into it."""
        for event in config.emits:
            node_id = self._event_ids[event]
            self._add_edge(config.name, node_id, kind="fan-out" if event in config.list_returns else None)
            if issubclass(event, InputRequiredEvent):
                self._add_edge(node_id, EXTERNAL)
        for event in dict.fromkeys(config.accepted_events):
            for taken in self._taken_as(config, event):
                node_id = self._event_ids[taken]
                self._add_edge(node_id, config.name, kind="fan-in" if config.kind == "collect" else None)
                if issubclass(taken, HumanResponseEvent):
                    self._add_edge(EXTERNAL, node_id)
        for definition in config.resources:
            self._add_edge(config.name, self._resource_ids[resource_key(definition)], label=definition.name)
        if config.recovers:
            for covered in self._covered_by(config):
                self._add_edge(covered, self._event_ids[StepFailedEvent], kind="failure")

    def _taken_as(self, config: StepConfig, accepted: type[Event]) -> list[type[Event]]:
        return [event for event in self._event_ids if config.matches(event, accepted)]

    def _covered_by(self, handler: StepConfig) -> list[str]:
        named = {name for other in self.steps.values() for name in other.recovers}
        if handler.recovers != ("*",):
            return [name for name in handler.recovers if name in self.steps]
        return [name for name, config in self.steps.items() if not config.recovers and name not in named]

    def _add_edge(self, source: str, target: str, label: str | None = None, kind: EdgeKind | None = None) -> None:
        edge = WorkflowGraphEdge(source=source, target=target, label=label, kind=kind)
        if edge not in self.edges:
            self.edges.append(edge)
