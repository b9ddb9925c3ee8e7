"""Rows 78 to 82: the test runner, the graph of a workflow, drawings, what tracing sees, and verbose output.

Beside this file: `representation.json`, the graph of `Shop`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from celery import signals
from pydantic import BaseModel

from umbel import Context, Workflow, attach, retry_policy, step
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
from umbel.retry_policy import stop_after_attempt, wait_none
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


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds: a worker reports when the run may be over already."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# -- 78 ----------------------------------------------------------------------------------------------------------------


async def test_row_78_the_test_runner_collects_and_counts_what_a_run_publishes() -> None:
    result = await WorkflowTestRunner(Packing()).run(Order(articles=3))

    assert result.result == Sent(numbers=[0, 1, 2])
    assert result.event_types == {Special: 3, Sent: 1, StepStateChanged: 2 * 5}
    assert Counter(map(type, result.collected)) == result.event_types
    assert result.collected[-1] == result.result
    assert await result.ctx.store.get("articles") == 3


async def test_row_78_internal_events_and_exact_classes_can_be_left_out() -> None:
    runner = WorkflowTestRunner(Packing())
    start = Order(articles=2)

    assert (await runner.run(start, expose_internal=False)).event_types == {Special: 2, Sent: 1}
    without = await runner.run(start, exclude_events=[StepStateChanged, Packed, StopEvent])
    assert without.event_types == {Special: 2, Sent: 1}  # a subclass of an excluded class is none
    parameters = inspect.signature(WorkflowTestRunner.run).parameters
    assert list(parameters) == ["self", "start_event", "ctx", "expose_internal", "exclude_events"]
    assert parameters["expose_internal"].default is True


async def test_row_78_a_run_goes_on_with_a_context_and_a_failure_is_raised() -> None:
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


def test_row_79_the_graph_of_a_workflow_is_what_it_was() -> None:
    graph = get_workflow_representation(Shop())
    stored = json.loads((HERE / "representation.json").read_text())

    assert graph.model_dump(mode="json") == stored
    assert WorkflowGraph.model_validate(stored) == graph
    assert get_workflow_representation(Shop) == graph


def test_row_79_nodes_of_a_type_are_taken_out_and_what_they_connected_stays_connected() -> None:
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


def test_row_79_resources_and_configs_are_nodes() -> None:
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


def test_row_80_all_flows_are_drawn_as_one_file_that_needs_no_network(tmp_path: Path) -> None:
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


def test_row_80_all_flows_as_mermaid_with_child_workflows_and_cut_labels() -> None:
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


async def test_row_80_what_happened_in_a_run_is_drawn_also_by_another_handler_than_its_own(tmp_path: Path) -> None:
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


# -- 81 ----------------------------------------------------------------------------------------------------------------


class Seen:
    """Celery's signals for the steps of one run, which is what tracing of Celery tasks is made of."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, str, str]] = []

    def of(self, run_id: str) -> list[tuple[str, str, str]]:
        """Signal, task name and task id, in their order."""
        return [(signal, name, task_id) for signal, name, task_id, run in self.all if run == run_id]

    def count(self, run_id: str) -> Counter[tuple[str, str]]:
        """How often each signal was sent for each task name."""
        return Counter((signal, name) for signal, name, _ in self.of(run_id))

    def prerun(self, sender: Any, task_id: str, args: Any, **_: Any) -> None:
        self.all.append(("prerun", sender.name, task_id, args[0]))

    def postrun(self, sender: Any, task_id: str, args: Any, state: str, **_: Any) -> None:
        self.all.append((f"postrun {state}", sender.name, task_id, args[0]))

    def failure(self, sender: Any, task_id: str, args: Any, exception: Exception, **_: Any) -> None:
        self.all.append((f"failure {exception}", sender.name, task_id, args[0]))

    def retry(self, sender: Any, request: Any, **_: Any) -> None:
        self.all.append(("retry", sender.name, request.id, request.args[0]))


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    connected = [
        (signals.task_prerun, seen.prerun),
        (signals.task_postrun, seen.postrun),
        (signals.task_failure, seen.failure),
        (signals.task_retry, seen.retry),
    ]
    for signal, receiver in connected:
        signal.connect(receiver, weak=False)
    yield seen
    for signal, receiver in connected:
        signal.disconnect(receiver)


class RowPayment(Workflow):
    """Its name is no other workflow's, so the tasks are called by it alone."""

    @step
    async def begin(self, ev: StartEvent) -> Item:
        return Item(n=1)

    @step
    async def charge(self, ctx: Context, ev: Item) -> StopEvent:
        await ctx.wait_for_event(Answer, waiter_event=Asked(question="sure?"))
        return StopEvent()


async def test_row_81_each_execution_of_a_step_is_a_celery_task_and_a_wait_is_no_failure(seen: Seen) -> None:
    handler = RowPayment().run()
    async for event in handler.stream_events():
        if isinstance(event, Asked):
            await handler.send_event(Answer(text="yes"))
    await eventually(lambda: seen.count(handler.run_id)["postrun SUCCESS", "RowPayment.charge"] == 2)

    assert seen.count(handler.run_id) == {
        ("prerun", "RowPayment.begin"): 1,
        ("postrun SUCCESS", "RowPayment.begin"): 1,
        ("prerun", "RowPayment.charge"): 2,
        ("postrun SUCCESS", "RowPayment.charge"): 2,
    }
    assert len({task_id for _, _, task_id in seen.of(handler.run_id)}) == 3


class RowRefusal(Workflow):
    @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
    async def refuse(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise ValueError(f"no {ctx.attempt}")


async def test_row_81_a_failed_attempt_is_a_retry_or_a_failure(seen: Seen) -> None:
    handler = RowRefusal().run()
    with pytest.raises(ValueError, match="no 2"):
        await handler
    await eventually(lambda: seen.count(handler.run_id)["postrun FAILURE", "RowRefusal.refuse"] == 1)

    assert seen.count(handler.run_id) == {
        ("prerun", "RowRefusal.refuse"): 2,
        ("retry", "RowRefusal.refuse"): 1,
        ("postrun RETRY", "RowRefusal.refuse"): 1,
        ("failure attempt 2: builtins.ValueError: no 2", "RowRefusal.refuse"): 1,
        ("postrun FAILURE", "RowRefusal.refuse"): 1,
    }


# -- 82 ----------------------------------------------------------------------------------------------------------------


class Talks(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Item]:
        ctx.write_event_to_stream(Special(n=7))
        return [Item(n=n) for n in range(2)]

    @step(num_workers=1)
    async def pack(self, ctx: Context, ev: Item) -> Packed | None:
        return Packed(n=ev.n) if ev.n else None

    @step
    async def gather(self, ctx: Context, evs: list[Packed]) -> Answer | None:
        ctx.send_event(Answer(text="done"), step="close")
        return None

    @step
    async def close(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


LINES = [
    "[split:0] started from StartEvent",
    "[tick] publish: Special(n=7)",
    "[split:0] complete with Item x 2",
    "[pack] enqueued (waiting for capacity)",
    "[pack:0] started from Item",
    "[pack:0] complete with no result",
    "[pack:0] started from Item",
    "[pack:0] complete with Packed",
    "[gather:0] started from CollectionReleaseEvent",
    "[tick] add: Answer(text='done') -> close",
    "[gather:0] complete with no result",
    "[close:0] started from Answer",
    "[close:0] complete with StopEvent",
    "[result] StopEvent(result='done')",
]


def is_told(lines: list[str]) -> bool:
    """Whether these are the lines of a run of `Talks`; what several processes or threads print may change places."""
    return sorted(lines) == sorted(LINES) and [x for x in lines if "pack:0" in x] == [x for x in LINES if "pack:0" in x]


async def test_row_82_a_verbose_run_prints_what_its_steps_do(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="umbel.verbose")
    printed: list[str] = []
    assert await Talks().run() == "done"
    assert capsys.readouterr().out == ""

    assert await Talks(verbose=True).run() == "done"

    def told() -> bool:
        printed.extend(capsys.readouterr().out.splitlines())
        return len(printed) >= len(LINES)

    await eventually(told)
    assert is_told(printed)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_row_82_a_logger_that_is_heard_gets_the_lines_instead(
    level: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, logger="umbel.verbose")

    def told() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "umbel.verbose"]

    assert await Talks(verbose=True).run() == "done"
    await eventually(lambda: len(told()) >= len(LINES))

    assert is_told([record.getMessage() for record in told()])
    assert {record.levelno for record in told()} == {level}
    assert capsys.readouterr().out == ""
