"""A workflow's structure as data, and its JSON, which other programs read."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel

from umbel.tasks.client.workflow import Workflow
from umbel.tasks.drawing.representation import WorkflowEventNode, WorkflowGenericNode, WorkflowGraph, WorkflowStepNode
from umbel.tasks.drawing.representation_builder import get_workflow_representation
from umbel.tasks.events.event import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from umbel.tasks.resources.config import ResourceConfig
from umbel.tasks.resources.resource import Resource
from umbel.tasks.steps.decorators import catch_error, step


class Line(Event):
    article: str
    count: int = 1


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    yes: bool


class Done(StopEvent):
    pass


class Prices:
    pass


class Rates(BaseModel):
    vat: float


def connection() -> Prices:
    """A connection to the price list."""
    return Prices()


def prices(at: Annotated[Prices, Resource(connection)]) -> Prices:
    return at


class Order(Workflow):
    """Prices an order.

    And asks somebody.
    """

    @step
    async def begin(self, ev: StartEvent) -> list[Line]:
        """Takes the order apart."""

    @step
    async def price(self, evs: list[Line], prices: Annotated[Prices, Resource(prices)]) -> Ask: ...

    @step
    async def ship(self, ev: Answer) -> Done: ...


def line_of(function: object) -> int:
    return function.__code__.co_firstlineno  # type: ignore[attr-defined, no-any-return]


def test_the_json_is_what_clients_of_llamaindex_workflows_read() -> None:
    found = json.loads(get_workflow_representation(Order()).model_dump_json())

    resource_ids = [node["id"] for node in found["nodes"] if node["node_type"] == "resource"]
    assert all(each.startswith("resource_") for each in resource_ids)
    start = found["nodes"][1].pop("event_schema")
    stop = [node["event_schema"] for node in found["nodes"] if node["id"] == "Done"]
    assert (start["title"], stop[0]["title"]) == ("StartEvent", "Done")
    here = str(Path(__file__))
    assert found == {
        "name": "Order",
        "description": "Prices an order.\n\nAnd asks somebody.",
        "nodes": [
            {"id": "begin", "label": "begin", "node_type": "step", "description": "Takes the order apart."},
            {
                "id": "StartEvent",
                "label": "StartEvent",
                "node_type": "event",
                "event_type": "StartEvent",
                "event_types": ["StartEvent"],
                "produced_by": [],
            },
            {
                "id": "Line",
                "label": "Line",
                "node_type": "event",
                "event_type": "Line",
                "event_types": ["Line"],
                "event_schema": {
                    "title": "Line",
                    "type": "object",
                    "properties": {
                        "article": {"title": "Article", "type": "string"},
                        "count": {"title": "Count", "type": "integer", "default": 1},
                    },
                    "required": ["article"],
                },
                "produced_by": ["begin"],
            },
            {"id": "price", "label": "price", "node_type": "step", "description": None},
            {
                "id": "Ask",
                "label": "Ask",
                "node_type": "event",
                "event_type": "Ask",
                "event_types": ["Ask", "InputRequiredEvent"],
                "event_schema": {"title": "Ask", "type": "object", "properties": {}},
                "produced_by": ["price"],
            },
            {"id": "external_step", "label": "external_step", "node_type": "external"},
            {
                "id": resource_ids[0],
                "label": "Prices",
                "node_type": "resource",
                "type_name": "Prices",
                "getter_name": "prices",
                "source_file": here,
                "source_line": line_of(prices),
                "description": None,
            },
            {
                "id": resource_ids[1],
                "label": "Prices",
                "node_type": "resource",
                "type_name": "Prices",
                "getter_name": "connection",
                "source_file": here,
                "source_line": line_of(connection),
                "description": "A connection to the price list.",
            },
            {"id": "ship", "label": "ship", "node_type": "step", "description": None},
            {
                "id": "Answer",
                "label": "Answer",
                "node_type": "event",
                "event_type": "Answer",
                "event_types": ["Answer", "HumanResponseEvent"],
                "event_schema": {
                    "title": "Answer",
                    "type": "object",
                    "properties": {"yes": {"title": "Yes", "type": "boolean"}},
                    "required": ["yes"],
                },
                "produced_by": [],
            },
            {
                "id": "Done",
                "label": "Done",
                "node_type": "event",
                "event_type": "Done",
                "event_types": ["Done", "StopEvent"],
                "event_schema": stop[0],
                "produced_by": ["ship"],
            },
        ],
        "edges": [
            {"source": resource_ids[0], "target": resource_ids[1], "label": "at"},
            {"source": "begin", "target": "Line", "label": None, "kind": "fan-out"},
            {"source": "StartEvent", "target": "begin", "label": None},
            {"source": "price", "target": "Ask", "label": None},
            {"source": "Ask", "target": "external_step", "label": None},
            {"source": "Line", "target": "price", "label": None, "kind": "fan-in"},
            {"source": "price", "target": resource_ids[0], "label": "prices"},
            {"source": "ship", "target": "Done", "label": None},
            {"source": "Answer", "target": "ship", "label": None},
            {"source": "external_step", "target": "Answer", "label": None},
        ],
    }


def test_json_read_back_is_the_same_graph() -> None:
    graph = get_workflow_representation(Order)

    assert WorkflowGraph.model_validate_json(graph.model_dump_json()) == graph


def test_a_node_of_an_unknown_type_is_read_as_a_generic_one() -> None:
    read = WorkflowGraph.model_validate(
        {"name": "Agents", "edges": [], "nodes": [{"id": "a", "label": "A", "node_type": "agent", "event_type": "X"}]}
    )

    assert read.nodes == [WorkflowGenericNode(id="a", label="A", node_type="agent", event_type="X")]


def test_without_events_steps_are_connected_by_edges_named_after_them() -> None:
    graph = get_workflow_representation(Order).filter_by_node_type("event", "resource")

    assert [node.id for node in graph.nodes] == ["begin", "price", "external_step", "ship"]
    assert [(edge.source, edge.label, edge.target) for edge in graph.edges] == [
        ("begin", "Line", "price"),
        ("price", "Ask", "external_step"),
        ("external_step", "Answer", "ship"),
    ]


def test_without_steps_and_resources_events_follow_each_other() -> None:
    graph = get_workflow_representation(Order).filter_by_node_type("step", "resource", "external")

    assert [(edge.source, edge.label, edge.target) for edge in graph.edges] == [
        ("StartEvent", "begin", "Line"),
        ("Line", "price", "Ask"),
        ("Ask", "external_step", "Answer"),
        ("Answer", "ship", "Done"),
    ]


def test_a_loop_of_left_out_nodes_ends() -> None:
    class Again(Event):
        pass

    class Loop(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Again: ...

        @step
        async def go(self, ev: Again) -> Again | StopEvent: ...

    graph = get_workflow_representation(Loop).filter_by_node_type("step", "event")

    assert (graph.nodes, graph.edges) == ([], [])
    events = get_workflow_representation(Loop).filter_by_node_type("step")
    assert ("Again", "Again") in [(edge.source, edge.target) for edge in events.edges]


def test_a_config_shows_what_the_file_says_only_when_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    file.write_text('{"here": {"vat": 0.19}}')

    class Taxed(Workflow):
        @step
        async def go(
            self, ev: StartEvent, rates: Annotated[Rates, ResourceConfig(file, "here", label="Rates of here")]
        ) -> StopEvent: ...

    def config(**options: bool) -> dict[str, object]:
        nodes = get_workflow_representation(Taxed, **options).model_dump()["nodes"]
        [found] = [node for node in nodes if node["node_type"] == "resource_config"]
        return dict(found)

    found = config()
    assert (found["label"], found["type_name"], found["path_selector"]) == ("Rates of here", "Rates", "here")
    assert found["config_value"] is None
    assert config(include_config_values=True)["config_value"] == {"vat": 0.19}
    file.unlink()
    assert config(include_config_values=True)["config_value"] is None


def test_failures_lead_to_the_handler_that_covers_the_step() -> None:
    class Covered(Workflow):
        @step
        async def a(self, ev: StartEvent) -> Line: ...

        @step
        async def b(self, ev: Line) -> StopEvent: ...

        @catch_error(for_steps=["b"])
        async def for_b(self, ev: StepFailedEvent) -> StopEvent: ...

        @catch_error
        async def for_others(self, ev: StepFailedEvent) -> StopEvent: ...

    edges = get_workflow_representation(Covered).edges

    assert sorted(edge.source for edge in edges if edge.kind == "failure") == ["a", "b"]


def test_a_step_that_accepts_subclasses_is_connected_with_each_of_them() -> None:
    class Urgent(Line):
        pass

    class Wide(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Urgent | Line: ...

        @step(accept_event_subclasses=True)
        async def work(self, ev: Line) -> StopEvent: ...

    edges = get_workflow_representation(Wide).edges

    assert {edge.source for edge in edges if edge.target == "work"} == {"Urgent", "Line"}


def test_two_event_classes_of_one_name_are_two_nodes() -> None:
    def another() -> type[Event]:
        class Line(Event):
            pass

        return Line

    Other = another()

    class Confused(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Line: ...

        @step
        async def work(self, ev: Line) -> Other: ...  # type: ignore[valid-type]

        @step
        async def end(self, ev: Other) -> StopEvent: ...  # type: ignore[valid-type]

    nodes = get_workflow_representation(Confused).nodes

    lines = [node for node in nodes if node.label == "Line"]
    assert [isinstance(node, WorkflowEventNode) for node in lines] == [True, True]
    assert len({node.id for node in nodes}) == len(nodes)


@pytest.mark.parametrize(("length", "shown"), [(10, "begin"), (5, "begin"), (4, "beg*")])
def test_a_cut_label_ends_with_a_star(length: int, shown: str) -> None:
    assert WorkflowStepNode(id="begin", label="begin").truncated_label(length) == shown
