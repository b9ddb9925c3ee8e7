"""A workflow's structure as data: nodes for its steps, events and resources, and the edges between them.

No user code runs to build it. Its JSON has the format of LlamaIndex Workflows, so that their clients and pages can read
it, with one addition: `kind` on edges that are more than a single event. What a step sends with `ctx.send_event` or
waits for is not in any annotation and therefore not in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

EdgeKind = Literal["fan-out", "fan-in", "failure"]

#: The node that answers an `InputRequiredEvent`.
EXTERNAL = "external_step"


class WorkflowNodeBase(BaseModel):
    """The fields that all nodes have.

    Attributes:
        id: Unique in its graph.
        label: The text to show.
    """

    id: str
    label: str

    def truncated_label(self, max_length: int) -> str:
        """The label, cut to at most `max_length` characters; `*` at its end marks a cut label."""
        return self.label if len(self.label) <= max_length else f"{self.label[: max_length - 1]}*"


class WorkflowStepNode(WorkflowNodeBase):
    """A step; its id is its name.

    Attributes:
        description: The docstring of its function.
    """

    node_type: Literal["step"] = "step"
    description: str | None = None


class WorkflowEventNode(WorkflowNodeBase):
    """An event class.

    Attributes:
        event_type: The class's name.
        event_types: That name, then the names of the event classes it derives from, except `Event`.
        event_schema: Its JSON schema; None when pydantic cannot make one (fields of arbitrary types).
        produced_by: The steps whose return annotation names it, alone or in a list.
    """

    node_type: Literal["event"] = "event"
    event_type: str
    event_types: list[str]
    event_schema: dict[str, Any] | None = None
    produced_by: list[str] = Field(default_factory=list)

    def is_subclass_of(self, *type_names: str) -> bool:
        """Whether the event class has one of these names or derives from a class that has."""
        return any(name in self.event_types for name in type_names)


class WorkflowExternalNode(WorkflowNodeBase):
    """The outside of the workflow: receives its `InputRequiredEvent`s and sends `HumanResponseEvent`s."""

    node_type: Literal["external"] = "external"


class WorkflowResourceNode(WorkflowNodeBase):
    """A resource that is injected into steps.

    Attributes:
        type_name: The annotated type.
        getter_name: The function that creates it.
        source_file: The file of that function, on this machine.
        source_line: The line it begins at.
        description: Its docstring.
    """

    node_type: Literal["resource"] = "resource"
    type_name: str | None = None
    getter_name: str | None = None
    source_file: str | None = None
    source_line: int | None = None
    description: str | None = None


class WorkflowResourceConfigNode(WorkflowNodeBase):
    """A configuration that is read from a file.

    Attributes:
        type_name: The pydantic model that its content is validated as.
        config_file: The JSON file.
        path_selector: Dotted path of the part that is read; None for the whole file.
        config_schema: The model's JSON schema.
        config_value: The current content; None if it was not requested or cannot be read.
        description: The description given by its author.
    """

    node_type: Literal["resource_config"] = "resource_config"
    type_name: str | None = None
    config_file: str | None = None
    path_selector: str | None = None
    config_schema: dict[str, Any] | None = None
    config_value: dict[str, Any] | None = None
    description: str | None = None


class WorkflowGenericNode(WorkflowNodeBase):
    """A node of any other type.

    Attributes:
        node_type: Its type.
        event_type: The name of a class, if it stands for one.
        event_types: That name, then the names of its parents.
    """

    node_type: str
    event_type: str | None = None
    event_types: list[str] | None = None

    def is_subclass_of(self, *type_names: str) -> bool:
        """Whether it stands for a class that has one of these names or derives from one that has."""
        return any(name in (self.event_types or ()) for name in type_names)


# The generic node comes last: when JSON is read, it accepts what no other node type accepts.
WorkflowGraphNode = (
    WorkflowStepNode
    | WorkflowEventNode
    | WorkflowExternalNode
    | WorkflowResourceNode
    | WorkflowResourceConfigNode
    | WorkflowGenericNode
)


class WorkflowGraphEdge(BaseModel):
    """A directed edge.

    Attributes:
        source: Id of the node it leaves.
        target: Id of the node it leads to.
        label: For a resource, the parameter's name.
        kind: `fan-out` leads to an event of a returned list, `fan-in` to a `list[...]` parameter, `failure` from a step
            to its `StepFailedEvent`. None for any other edge; JSON omits it.
    """

    source: str
    target: str
    label: str | None = None
    kind: EdgeKind | None = None

    @model_serializer(mode="wrap")
    def _without_plain_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        if dumped.get("kind") is None:
            dumped.pop("kind", None)
        return dumped


class WorkflowGraph(BaseModel):
    """A workflow's structure.

    Attributes:
        name: The workflow class's name.
        nodes: All nodes; each step is followed by the events it is the first to mention.
        edges: All edges, step by step.
        description: The workflow class's docstring.
    """

    name: str
    nodes: list[WorkflowGraphNode]
    edges: list[WorkflowGraphEdge]
    description: str | None = None

    def filter_by_node_type(self, *node_types: str) -> WorkflowGraph:
        """The graph without nodes of these types; nodes that were connected through them stay connected.

        Such an edge gets the label of the first omitted node on its path, so without `"event"` nodes the
        edges between steps are labelled with the event. Between two nodes there is at most one edge in the result.

        Args:
            *node_types: `"step"`, `"event"`, `"external"`, `"resource"`, `"resource_config"` or a generic type.
        """
        dropped = {node.id: node.label for node in self.nodes if node.node_type in node_types}
        leaving: dict[str, list[WorkflowGraphEdge]] = {}
        for edge in self.edges:
            leaving.setdefault(edge.source, []).append(edge)
        kept = [node for node in self.nodes if node.id not in dropped]
        edges: dict[tuple[str, str], WorkflowGraphEdge] = {}
        for node in kept:
            for edge in _bridged(node.id, leaving, dropped):
                edges.setdefault((edge.source, edge.target), edge)
        return WorkflowGraph(name=self.name, nodes=kept, edges=list(edges.values()), description=self.description)


def _bridged(
    source: str, leaving: dict[str, list[WorkflowGraphEdge]], dropped: dict[str, str]
) -> Iterator[WorkflowGraphEdge]:
    """The edges from `source` to the next nodes that are kept."""
    passed: set[str] = set()
    # Depth first with an explicit stack: an edge, and label and kind of the path to it.
    ways = [(edge, edge.label, edge.kind) for edge in reversed(leaving.get(source, []))]
    while ways:
        edge, label, kind = ways.pop()
        if edge.target not in dropped:
            yield WorkflowGraphEdge(source=source, target=edge.target, label=label, kind=kind)
        elif edge.target not in passed:
            passed.add(edge.target)
            label = label if edge.source in dropped else dropped[edge.target]
            ways.extend((further, label, kind or further.kind) for further in reversed(leaving.get(edge.target, [])))
