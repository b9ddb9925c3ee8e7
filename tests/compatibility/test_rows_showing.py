"""Rows 78 to 80: the test runner, the graph of a workflow, drawings.

The file `representation.json` in this folder has the graph of `Shop`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel

from umbel import Context, Workflow, attach, step
from umbel.drawing import (
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
)
from umbel.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepStateChanged,
    StopEvent,
)
from umbel.representation import (
    WorkflowExternalNode,
    WorkflowGraph,
    WorkflowResourceConfigNode,
    WorkflowResourceNode,
    get_workflow_representation,
)
from umbel.resource import Resource, ResourceConfig
from umbel.testing import WorkflowTestRunner

HERE = Path(__file__).parent


class Order(StartEvent):
    articles: int


class Item(Event):
    n: int


class Packed(Event):
    n: int


class Special(Packed):
    pass


class Asked(InputRequiredEvent):
    question: str


class Answer(HumanResponseEvent):
    text: str


class Sent(StopEvent):
    numbers: list[int]


class Shop(Workflow):
    """Packs articles, asks, and sends."""

    @step
    async def split(self, ev: Order) -> list[Item]:
        """One item for each article."""
        return [Item(n=n) for n in range(ev.articles)]

    @step
    async def pack(self, ctx: Context, ev: Item) -> Packed:
        ctx.write_event_to_stream(Special(n=ev.n))
        return Packed(n=ev.n)

    @step
    async def gather(self, ctx: Context, evs: list[Packed]) -> Asked:
        await ctx.store.set("numbers", sorted(ev.n for ev in evs))
        return Asked(question="send it?")

    @step
    async def send(self, ctx: Context, ev: Answer) -> Sent:
        return Sent(numbers=await ctx.store.get("numbers"))


class Packing(Workflow):
    """The same without questions."""

    @step
    async def split(self, ctx: Context, ev: Order) -> list[Item]:
        await ctx.store.set("articles", ev.articles)
        return [Item(n=n) for n in range(ev.articles)]

    @step
    async def pack(self, ctx: Context, ev: Item) -> Packed:
        ctx.write_event_to_stream(Special(n=ev.n))
        return Packed(n=ev.n)

    @step
    async def gather(self, evs: list[Packed]) -> Sent:
        return Sent(numbers=sorted(ev.n for ev in evs))


# -- 78 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(78)
async def test_the_test_runner_collects_and_counts_what_a_run_publishes() -> None:
    result = await WorkflowTestRunner(Packing()).run(Order(articles=3))

    assert result.result == Sent(numbers=[0, 1, 2])
    assert result.event_types == {Special: 3, Sent: 1, StepStateChanged: 2 * 5}
    assert Counter(map(type, result.collected)) == result.event_types
    assert result.collected[-1] == result.result
    assert await result.ctx.store.get("articles") == 3


@pytest.mark.row(78)
async def test_internal_events_and_exact_classes_can_be_left_out() -> None:
    runner = WorkflowTestRunner(Packing())
    start = Order(articles=2)

    assert (await runner.run(start, expose_internal=False)).event_types == {Special: 2, Sent: 1}
    without = await runner.run(start, exclude_events=[StepStateChanged, Packed, StopEvent])
    assert without.event_types == {Special: 2, Sent: 1}  # a subclass of an excluded class is not excluded
    parameters = inspect.signature(WorkflowTestRunner.run).parameters
    assert list(parameters) == ["self", "start_event", "ctx", "expose_internal", "exclude_events"]
    assert parameters["expose_internal"].default is True


@pytest.mark.row(78)
async def test_a_run_continues_with_a_context_and_a_failure_is_raised() -> None:
    class Counts(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            n = await ctx.store.get("n", default=0) + 1
            await ctx.store.set("n", n)
            if n == 3:
                raise ValueError("three")
            return StopEvent(result=n)

    runner = WorkflowTestRunner(Counts())
    first = await runner.run()
    second = await runner.run(ctx=first.ctx)
    assert (first.result, second.result) == (1, 2)
    with pytest.raises(ValueError, match="three"):
        await runner.run(ctx=second.ctx)


# -- 79 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(79)
def test_the_graph_of_a_workflow_is_what_it_was() -> None:
    graph = get_workflow_representation(Shop())
    stored = json.loads((HERE / "stored" / "representation.json").read_text())

    assert graph.model_dump(mode="json") == stored
    assert WorkflowGraph.model_validate(stored) == graph
    assert get_workflow_representation(Shop) == graph


@pytest.mark.row(79)
def test_nodes_of_a_type_are_taken_out_and_what_they_connected_stays_connected() -> None:
    graph = get_workflow_representation(Shop()).filter_by_node_type("event")

    assert [node.id for node in graph.nodes if isinstance(node, WorkflowExternalNode)] == ["external_step"]
    assert {node.node_type for node in graph.nodes} == {"step", "external"}
    assert {(edge.source, edge.target, edge.label) for edge in graph.edges} == {
        ("split", "pack", "Item"),
        ("pack", "gather", "Packed"),
        ("gather", "external_step", "Asked"),
        ("external_step", "send", "Answer"),
    }


class Model(BaseModel):
    name: str


def connect(config: Annotated[Model, ResourceConfig("app.json", "llm.fast", label="LLM")]) -> str:
    """Opens the connection."""
    return config.name


@pytest.mark.row(79)
def test_resources_and_configs_are_nodes() -> None:
    class Flow(Workflow):
        @step
        async def go(self, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent()

    graph = get_workflow_representation(Flow())

    (resource,) = [node for node in graph.nodes if isinstance(node, WorkflowResourceNode)]
    (config,) = [node for node in graph.nodes if isinstance(node, WorkflowResourceConfigNode)]
    assert (resource.type_name, resource.getter_name, resource.source_file) == ("str", "connect", __file__)
    assert resource.description == "Opens the connection."
    assert (config.label, config.type_name, config.config_file) == ("LLM", "Model", "app.json")
    assert (config.path_selector, config.config_value) == ("llm.fast", None)
    edges = {(edge.source, edge.target, edge.label) for edge in graph.edges}
    assert {("go", resource.id, "db"), (resource.id, config.id, "config")} <= edges


# -- 80 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(80)
def test_all_flows_are_drawn_as_one_file_that_needs_no_network(tmp_path: Path) -> None:
    file = tmp_path / "flows.html"
    assert draw_all_possible_flows(Shop(), filename=str(file)) is None

    html = file.read_text()
    for name in (
        "split",
        "pack",
        "gather",
        "send",
        "Order",
        "Item",
        "Packed",
        "Asked",
        "Answer",
        "Sent",
        "external_step",
    ):
        assert f">{name}<" in html
    assert re.findall(r'(?:src|href)="(?!#)', html) == []
    defaults = {name: each.default for name, each in inspect.signature(draw_all_possible_flows).parameters.items()}
    assert defaults == {
        "workflow": inspect.Parameter.empty,
        "filename": "workflow_all_flows.html",
        "notebook": False,
        "max_label_length": None,
        "include_child_workflows": True,
    }


@pytest.mark.row(80)
def test_all_flows_as_mermaid_with_child_workflows_and_cut_labels() -> None:
    class Outer(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Packing().run(articles=ev.articles))

    chart = draw_all_possible_flows_mermaid(Shop)
    assert chart.splitlines()[0] == "flowchart TD"
    for line in ("step_split ==> event_Item", "event_Item --> step_pack", "event_Packed ==> step_gather"):
        assert f"    {line}" in chart.splitlines()
    assert 'event_Answer(["Answer"])' in chart
    assert 'event_Answer(["Answ*"])' in draw_all_possible_flows_mermaid(Shop, max_label_length=5)
    assert "Packing" in draw_all_possible_flows_mermaid(Outer)
    assert "Packing" not in draw_all_possible_flows_mermaid(Outer, include_child_workflows=False)


@pytest.mark.row(80)
async def test_what_happened_in_a_run_is_drawn_also_by_another_handler_than_its_own(tmp_path: Path) -> None:
    handler = Packing().run(articles=2)
    await handler

    chart = draw_most_recent_execution_mermaid(attach(handler.run_id))
    for name in ("split", "pack", "gather", "Item", "Packed", "Sent"):
        assert name in chart
    file = tmp_path / "run.html"
    assert draw_most_recent_execution(handler, filename=file) is None
    assert ">pack<" in file.read_text()
    shown = draw_most_recent_execution(handler, filename=file, notebook=True)
    assert shown is not None
    assert "<iframe" in shown._repr_html_()
    default = inspect.signature(draw_most_recent_execution).parameters["filename"].default
    assert default == "workflow_recent_execution.html"
