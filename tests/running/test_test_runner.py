"""`WorkflowTestRunner`, with which users test their workflows."""

from __future__ import annotations

import pytest

from umbel import Context, Event, StartEvent, StepStateChanged, StopEvent, Workflow, step
from umbel.tasks.client.testing import WorkflowTestRunner

pytestmark = pytest.mark.usefixtures("runtime")


class Begin(StartEvent):
    name: str = "nobody"


class Note(Event):
    text: str


class LoudNote(Note):
    pass


class Greeting(Workflow):
    @step
    async def greet(self, ctx: Context, ev: Begin) -> StopEvent:
        ctx.write_event_to_stream(Note(text="soft"))
        ctx.write_event_to_stream(LoudNote(text="loud"))
        await ctx.store.set("greeted", ev.name)
        return StopEvent(result=f"hello {ev.name}")


async def test_a_run_is_collected_with_its_internal_events() -> None:
    found = await WorkflowTestRunner(Greeting()).run(Begin(name="Ada"))

    assert found.result == "hello Ada"
    assert found.event_types == {StepStateChanged: 2, Note: 1, LoudNote: 1, StopEvent: 1}
    assert [event.text for event in found.collected if isinstance(event, Note)] == ["soft", "loud"]
    assert await found.ctx.store.get("greeted") == "Ada"


async def test_internal_events_can_be_left_out() -> None:
    found = await WorkflowTestRunner(Greeting()).run(Begin(), expose_internal=False)

    assert set(found.event_types) == {Note, LoudNote, StopEvent}


async def test_classes_are_excluded_exactly_and_not_with_their_subclasses() -> None:
    found = await WorkflowTestRunner(Greeting()).run(Begin(), exclude_events=[Note, StepStateChanged])

    assert found.event_types == {LoudNote: 1, StopEvent: 1}
    assert len(found.collected) == 2


async def test_without_a_start_event_the_workflow_is_given_its_own() -> None:
    found = await WorkflowTestRunner(Greeting()).run()

    assert found.result == "hello nobody"


async def test_a_context_is_continued() -> None:
    class Counting(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state["n"] = state.get("n", 0) + 1
            return StopEvent(result=await ctx.store.get("n"))

    runner = WorkflowTestRunner(Counting())
    first = await runner.run(StartEvent())
    second = await runner.run(StartEvent(), ctx=first.ctx)

    assert (first.result, second.result) == (1, 2)


async def test_what_the_step_raised_is_raised() -> None:
    class Broken(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await WorkflowTestRunner(Broken()).run()
