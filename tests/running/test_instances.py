"""A run is executed by the instance on which it was started, even if several instances or classes share a name."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from weakref import ref

import pytest

from support.eventually import eventually_async
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.errors import WorkflowValidationError
from umbel.tasks.workflow.registry import Registry, declared, register

pytestmark = pytest.mark.usefixtures("runtime")


class Middle(Event):
    seen: str


class Ask(Workflow):
    """Its steps return the instance that executes them; each run waits until its gate opens."""

    def __init__(self, llm: str, gate: asyncio.Event | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.llm, self.gate = llm, gate

    @step
    async def one(self, ev: StartEvent) -> Middle:
        if self.gate is not None:
            await self.gate.wait()
        return Middle(seen=self.llm)

    @step
    def two(self, ev: Middle) -> StopEvent:
        return StopEvent(result=[ev.seen, self.llm])


async def test_instances_of_one_class_that_run_at_once_keep_to_themselves() -> None:
    results = await asyncio.gather(*(Ask(name).run() for name in "abcdef"))

    assert results == [[name, name] for name in "abcdef"]


async def test_a_run_in_progress_stays_with_its_instance_when_another_one_is_run() -> None:
    gate = asyncio.Event()
    first = Ask("first", gate).run()
    assert await Ask("second").run() == ["second", "second"]
    gate.set()

    assert await first == ["first", "first"]


async def test_a_run_in_progress_stays_with_its_class_when_that_is_defined_again() -> None:
    def define(number: int, gate: asyncio.Event) -> type[Workflow]:
        class Again(Workflow):
            @step
            async def one(self, ev: StartEvent) -> Middle:
                await gate.wait()
                return Middle(seen=str(number))

            @step
            async def two(self, ev: Middle) -> StopEvent:
                return StopEvent(result=[ev.seen, number])

        return Again

    gate, opened = asyncio.Event(), asyncio.Event()
    opened.set()
    first = define(1, gate)().run()
    assert await define(2, opened)().run() == ["2", 2]
    gate.set()

    assert await first == ["1", 1]


async def test_child_runs_are_executed_by_the_instances_they_were_made_with() -> None:
    class Parent(Workflow):
        @step
        async def both(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = await ctx.run(Ask("a"))
            return StopEvent(result=[first, await ctx.run(Ask("b"))])

    assert await Parent().run() == [["a", "a"], ["b", "b"]]


async def test_an_instance_is_let_go_when_its_runs_have_ended() -> None:
    flow = Ask("short")
    kept = ref(flow)
    assert await flow.run() == ["short", "short"]
    assert await Ask("other").run() == ["other", "other"]
    del flow

    def is_free() -> bool:
        gc.collect()
        return kept() is None

    await eventually_async(is_free, "the instance is let go")


def test_two_registered_instances_of_one_name_are_refused() -> None:
    registry = Registry()
    registry.add(Ask("a"))

    with pytest.raises(WorkflowValidationError, match=r"Two instances of .*Ask are registered.*umbel\.register\(Ask"):
        registry.add(Ask("b"))


def test_instances_are_registered_by_names_of_their_own() -> None:
    registry, before = Registry(), list(declared)
    try:
        register(Ask("a"), name="ask-a")
        register(lambda: Ask("b"), name="ask-b")
        for each in declared[len(before) :]:
            registry.add(each)
    finally:
        declared[:] = before

    found = [registry.find("ask-a"), registry.find("ask-b")]
    assert [each.workflow.llm for each in found if each is not None] == ["a", "b"]  # type: ignore[attr-defined]


def test_a_run_started_elsewhere_belongs_to_the_registered_instance() -> None:
    registry = Registry()
    registry.executes = True
    declared_one, run_here = Ask("declared"), Ask("here")
    registry.add(declared_one)
    registry.add(run_here, to_run=True)
    registry.keep("r1", run_here)
    name = declared_one.workflow_name

    here, elsewhere = registry.find(name, "r1"), registry.find(name, "r2")
    assert here is not None
    assert here.workflow is run_here
    assert elsewhere is not None
    assert elsewhere.workflow is declared_one


def test_instances_whose_runs_are_executed_elsewhere_must_be_told_apart() -> None:
    registry = Registry()
    registry.keep("r1", Ask("gpt"))
    registry.keep("r2", Ask("gpt", asyncio.Event(), timeout=5))
    registry.keep("r3", Ask("claude", workflow_name="other"))

    with pytest.raises(WorkflowValidationError, match=r"run here with llm='claude'.*umbel\.register\(Ask\(…\), name="):
        registry.keep("r4", Ask("claude"))
