"""Waiting for an event from outside, and the run's state."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from pydantic import BaseModel, Field

from support.store.driving import work_on
from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    UnreadableEvent,
    Workflow,
    WorkflowRuntimeError,
    step,
)
from umbel.orchestration.connection.settings import Settings
from umbel.tasks.context.waits import MOST_UNREADABLE, find_answer
from umbel.tasks.events.codec import EventMismatch, EventRegistry, encode_event
from umbel.tasks.values.described_fields import model_of

pytestmark = pytest.mark.usefixtures("runtime")


class Answer(HumanResponseEvent):
    text: str
    who: str = ""


class Item(Event):
    n: int


async def test_a_waiting_step_is_answered_from_outside() -> None:
    class Ask(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(
                Answer, waiter_event=InputRequiredEvent(prompt="Name?"), requirements={"who": "anna"}
            )
            return StopEvent(result=answer.text)

    handler = Ask().run()
    asked = 0
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            asked += 1
            await handler.send_event(Answer(text="no", who="bob"))
            await handler.send_event(Answer(text="yes", who="anna"))
    assert await handler == "yes"
    assert asked == 1


async def test_an_answer_quicker_than_its_waiter_is_kept_for_it() -> None:
    released = asyncio.Event()

    class Late(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await released.wait()
            return StopEvent(result=(await ctx.wait_for_event(Answer)).text)

    handler = Late().run()
    await handler.send_event(Answer(text="early"))
    released.set()
    assert await handler == "early"


async def test_a_wait_that_takes_too_long_raises_inside_the_step() -> None:
    class Impatient(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Answer, timeout=0.1)
            except TimeoutError:
                return StopEvent(result="nobody came")
            return StopEvent(result="somebody came")

    assert await Impatient().run() == "nobody came"


class Score(HumanResponseEvent):
    points: int = Field(ge=0)


#: What a sender without the class knows about it.
AnyScore = model_of({"points": {"type": None, "required": True}}, "Score", __name__, HumanResponseEvent)


@pytest.mark.parametrize("waiter_id", [None, "score"])
async def test_an_answer_that_does_not_fit_its_class_is_reported_and_the_question_is_asked_again(
    waiter_id: str | None,
) -> None:
    class Rates(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            question = InputRequiredEvent(prompt="Points?")
            first = await ctx.wait_for_event(Score, waiter_event=question, waiter_id=waiter_id, timeout=60)
            second = await ctx.wait_for_event(Score, timeout=60)
            return StopEvent(result=[first.points, second.points, ctx.attempt])

    handler = Rates().run()
    answers = [AnyScore(points=-1), AnyScore(points="many"), Score(points=5)]
    unreadable = []
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(answers.pop(0))
            if not answers:
                await handler.send_event(Score(points=6))
        elif isinstance(event, UnreadableEvent):
            unreadable.append(event)
    assert await handler == [5, 6, 1]
    assert [(each.event_type, each.payload) for each in unreadable] == [("Score", "")] * 2
    assert "points: Input should be greater than or equal to 0" in unreadable[0].reason
    assert "points: Input should be a valid integer" in unreadable[1].reason


async def test_after_an_answer_that_does_not_fit_its_class_the_time_for_one_still_runs_out() -> None:
    class Rates(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Score, timeout=0.3)
            except TimeoutError:
                return StopEvent(result="nobody came")
            return StopEvent(result="somebody came")

    handler = Rates().run()
    await handler.send_event(AnyScore(points=-1))
    assert await handler == "nobody came"


def test_a_step_fails_that_was_given_very_many_answers_that_do_not_fit() -> None:
    flaw = encode_event(AnyScore(points=-1), Settings())
    names = ["w", *(f"w, again {n}" for n in range(1, MOST_UNREADABLE))]
    work = replace(work_on("ask"), answers=dict.fromkeys(names, flaw))
    with pytest.raises(EventMismatch, match="has received 100 answers that it cannot read"):
        find_answer("w", work, EventRegistry.of([Score]))


async def test_a_step_that_takes_a_response_as_its_event_needs_no_waiter() -> None:
    class Form(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent(prompt="?")

        @step
        async def answered(self, ev: Answer) -> StopEvent:
            return StopEvent(result=ev.text)

    handler = Form().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(Answer(text="here"))
    assert await handler == "here"


async def test_an_event_for_a_run_that_has_ended_is_refused() -> None:
    class Quick(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    handler = Quick().run()
    await handler
    with pytest.raises(WorkflowRuntimeError, match="has ended; Answer was not delivered"):
        await handler.send_event(Answer(text="late"))


async def test_state_is_shared_by_the_steps_of_a_run_and_seen_from_outside() -> None:
    class Counts(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> list[Item]:
            await ctx.store.set("total", 0)
            return [Item(n=n) for n in range(20)]

        @step(num_workers=10)
        async def add(self, ctx: Context, ev: Item) -> Item | None:
            async with ctx.store.edit_state() as state:
                state["total"] += ev.n
            return None

        @step
        async def end(self, ctx: Context, evs: list[Item]) -> StopEvent:
            return StopEvent(result=await ctx.store.get("total"))

    class Counting(Counts):
        @step(num_workers=10)
        async def add(self, ctx: Context, ev: Item) -> StopEvent | None:
            await Counts.add(self, ctx, ev)
            return None

        @step
        async def gather(self, ctx: Context, evs: list[Item]) -> StopEvent:
            return StopEvent(result=await ctx.store.get("total"))

    handler = Counting().run()
    assert await handler == sum(range(20))
    assert await handler.ctx.store.get("total") == sum(range(20))


async def test_plain_steps_have_a_blocking_store_and_typed_state() -> None:
    class Model(BaseModel):
        count: int = 0

    class Typed(Workflow):
        @step
        def go(self, ctx: Context[Model], ev: StartEvent) -> StopEvent:
            with ctx.store.edit_state() as state:
                state.count += 2
            return StopEvent(result=ctx.store.get("count"))

    assert await Typed().run() == 2
