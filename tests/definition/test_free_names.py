"""Names that a workflow's author may use, and mistakes whose errors say what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.errors import WorkflowRuntimeError, WorkflowValidationError

TAKEN = ["steps", "state_class", "resource_manager", "step_function", "run_arguments", "ensure_valid"]


@pytest.mark.parametrize("name", TAKEN)
async def test_an_attribute_of_an_instance_may_have_the_name(runtime: Any, name: str) -> None:
    class Own(Workflow):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, 5)

        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=getattr(self, name))

    assert await Own().run() == 5


@pytest.mark.parametrize("name", TAKEN)
async def test_an_attribute_of_the_class_and_a_step_may_have_the_name(runtime: Any, name: str) -> None:
    async def go(self: Any, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=name)

    go.__name__, go.__qualname__ = name, f"AsStep.{name}"
    as_step = type("AsStep", (Workflow,), {name: step(go), "__module__": __name__})

    class AsAttribute(Workflow):
        @step
        async def run_it(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=getattr(self, name))

    setattr(AsAttribute, name, [1])

    assert await as_step().run() == name
    assert await AsAttribute().run() == [1]


def test_the_steps_of_a_workflow_can_be_looked_at() -> None:
    class Small(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    assert list(Small().steps) == ["go"]
    assert Small().state_class is None
    assert Small().resource_manager is not None


def test_a_constructor_that_does_not_call_the_base_class_is_told_what_it_misses() -> None:
    class Forgetful(Workflow):
        def __init__(self, x: int) -> None:
            self.x = x

        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"Forgetful\.__init__\(\) does not call super\(\)\.__init__\(\)"):
        Forgetful(1).start()
    with pytest.raises(AttributeError, match="nothing"):
        Forgetful(1).nothing  # type: ignore[attr-defined]  # noqa: B018


async def test_a_start_event_that_no_step_takes_is_refused_at_once(runtime: Any) -> None:
    class Own(StartEvent):
        n: int

    class More(Own):
        pass

    class Typed(Workflow):
        @step
        async def go(self, ev: Own) -> StopEvent:
            return StopEvent(result=ev.n)

    with pytest.raises(WorkflowRuntimeError, match="takes a Own, got a StartEvent"):
        Typed().run(start_event=StartEvent(n=1))  # type: ignore[call-arg]
    with pytest.raises(WorkflowRuntimeError, match="got a More, which no step takes.*accept_event_subclasses=True"):
        Typed().run(start_event=More(n=1))
    assert await Typed().run(start_event=Own(n=1)) == 1


async def test_what_is_no_event_is_refused_where_it_is_sent(runtime: Any) -> None:
    class Small(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event("text")  # type: ignore[arg-type]
            return StopEvent()

    handler = Small().run()
    with pytest.raises(WorkflowRuntimeError, match="Expected an Event, got a str"):
        await handler
    with pytest.raises(WorkflowRuntimeError, match="Expected an Event, got a str"):
        await handler.send_event("text")  # type: ignore[arg-type]


async def test_a_cancelled_reading_is_continued_where_it_stopped(runtime: Any) -> None:
    read_some = asyncio.Event()

    class Ten(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for i in range(5):
                ctx.write_event_to_stream(Event(i=i))
            await read_some.wait()
            for i in range(5, 10):
                ctx.write_event_to_stream(Event(i=i))
            return StopEvent()

    handler = Ten().run()
    seen: list[Any] = []

    async def read() -> None:
        async for event in handler.stream_events():
            seen.append(event.get("i", "end"))
            if len(seen) == 3:
                read_some.set()

    reader = asyncio.create_task(read())
    await read_some.wait()
    reader.cancel()
    await asyncio.wait([reader])
    await read()

    assert seen == [*range(10), "end"]
