"""Rows 63 to 68: waiting for events, and sending them."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from support.runs import published
from umbel import Context, Workflow, catch_error, retry_policy, step
from umbel.errors import WorkflowRuntimeError
from umbel.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
)
from umbel.retry_policy import stop_after_attempt, wait_none


class Item(Event):
    n: int


class Other(Event):
    n: int


class Asked(InputRequiredEvent):
    n: int = 0


class Answer(HumanResponseEvent):
    text: str
    n: int = 0


# -- 63 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(63)
async def test_a_waiting_step_is_called_twice_and_asks_once() -> None:
    calls: list[int] = []

    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            calls.append(1)
            answer = await ctx.wait_for_event(Answer, waiter_event=Asked(n=1))
            return StopEvent(result=answer.text)

    handler = Asks().run()
    await published(handler, Asked)
    await handler.send_event(Answer(text="here"))

    assert await handler == "here"
    assert len(calls) == 2
    assert [event async for event in handler.stream_events()] == [Asked(n=1), StopEvent(result="here")]


@pytest.mark.row(63)
async def test_a_waiting_steps_own_except_exception_does_not_swallow_the_wait() -> None:
    """LlamaIndex Workflows unwinds the step with an Exception, which such a clause catches."""

    class Careful(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                answer = await ctx.wait_for_event(Answer, waiter_event=Asked())
            except Exception as error:
                return StopEvent(result=repr(error))
            return StopEvent(result=answer.text)

    handler = Careful().run()
    await published(handler, Asked)
    await handler.send_event(Answer(text="here"))
    assert await handler == "here"


# -- 64 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(64)
async def test_requirements_look_at_declared_and_dynamic_fields() -> None:
    class Picky(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            wanted = {"n": 2, "user": "ada"}
            answer = await ctx.wait_for_event(Answer, waiter_event=Asked(), requirements=wanted)
            return StopEvent(result=answer.text)

    handler = Picky().run()
    await published(handler, Asked)
    for answer in (
        Answer(text="declared field differs", n=1, user="ada"),
        Answer(text="dynamic field differs", n=2, user="bob"),
        Answer(text="dynamic field is missing", n=2),
        Answer(text="right", n=2, user="ada", more=1),
    ):
        await handler.send_event(answer)

    assert await handler == "right"


@pytest.mark.row(64)
async def test_one_answer_is_for_every_waiter_that_it_fits() -> None:
    class Two(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> Item:
            await ctx.wait_for_event(Answer, waiter_event=Asked())
            return Item(n=1)

        @step
        async def other(self, ctx: Context, ev: StartEvent) -> Other:
            await ctx.wait_for_event(Answer, waiter_event=Asked(), requirements={"n": 0})
            return Other(n=2)

        @step
        async def both(self, one: Item, other: Other) -> StopEvent:
            return StopEvent(result=[one.n, other.n])

    handler = Two().run()
    await published(handler, Asked, times=2)
    await handler.send_event(Answer(text="to all"))
    assert await handler == [1, 2]


@pytest.mark.row(64)
async def test_an_answer_addressed_to_another_step_is_for_the_waiter_too() -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Item:
            return Item(n=len((await ctx.wait_for_event(Answer, waiter_event=Asked())).text))

        @step
        async def listen(self, ev: Answer) -> Other:
            return Other(n=ev.n)

        @step
        async def both(self, item: Item, other: Other) -> StopEvent:
            return StopEvent(result=[item.n, other.n])

    handler = Asks().run()
    await published(handler, Asked)
    await handler.send_event(Answer(text="four", n=7), step="listen")
    assert await handler == [4, 7]


# -- 65 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(65)
async def test_a_wait_that_takes_too_long_is_a_timeout_error_in_the_step() -> None:
    class Impatient(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Answer, timeout=0.05)
            except asyncio.TimeoutError:  # noqa: UP041  # as programs for other versions of Python write it
                return StopEvent(result="nobody")
            return StopEvent(result="somebody")

    assert await Impatient().run() == "nobody"
    default = inspect.signature(Context.wait_for_event).parameters["timeout"].default
    assert default == 2000


@pytest.mark.row(65)
async def test_uncaught_it_fails_the_run() -> None:
    class Impatient(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer, timeout=0.05)
            return StopEvent()

    with pytest.raises(asyncio.TimeoutError, match="No Answer arrived within 0.05 s for step 'ask'"):
        await Impatient().run()


# -- 66 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(66)
async def test_waiters_of_parallel_branches_stay_apart() -> None:
    class Branches(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(5)]

        @step(num_workers=2)
        async def ask(self, ctx: Context, ev: Item) -> Other:
            answer = await ctx.wait_for_event(Answer, waiter_event=Asked(n=ev.n), requirements={"n": ev.n})
            assert answer.text == f"answer {ev.n}"
            return Other(n=ev.n)

        @step
        async def join(self, evs: list[Other]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    handler = Branches().run()
    questions = await published(handler, Asked, times=5)
    assert sorted(question.n for question in questions) == [0, 1, 2, 3, 4]
    for n in (3, 1, 4, 0, 2):
        await handler.send_event(Answer(text=f"answer {n}", n=n))

    assert sorted(await handler) == [0, 1, 2, 3, 4]


@pytest.mark.row(66)
async def test_without_requirements_too_each_branch_asks() -> None:
    class Branches(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def ask(self, ctx: Context, ev: Item) -> Other:
            await ctx.wait_for_event(Answer, waiter_event=Asked(n=ev.n))
            return Other(n=ev.n)

        @step
        async def join(self, evs: list[Other]) -> StopEvent:
            return StopEvent(result=len(evs))

    handler = Branches().run()
    await published(handler, Asked, times=3)
    await handler.send_event(Answer(text="for all of you"))
    assert await handler == 3


@pytest.mark.row(66)
async def test_a_custom_waiter_id_is_one_waiter_of_each_execution() -> None:
    """In LlamaIndex Workflows, executions of a step that use the same id share one waiter, and ask once."""

    class Branches(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @step
        async def ask(self, ctx: Context, ev: Item) -> Other:
            first = await ctx.wait_for_event(Answer, waiter_event=Asked(n=ev.n), waiter_id="first")
            second = await ctx.wait_for_event(Answer, waiter_event=Asked(n=ev.n), waiter_id="second")
            return Other(n=ev.n if (first.text, second.text) == ("first", "second") else -1)

        @step
        async def join(self, evs: list[Other]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    handler = Branches().run()
    assert sorted(question.n for question in await published(handler, Asked, times=2)) == [0, 1]
    await handler.send_event(Answer(text="first"))
    assert sorted(question.n for question in await published(handler, Asked, times=4)) == [0, 0, 1, 1]
    await handler.send_event(Answer(text="second"))
    assert await handler == [0, 1]


# -- 67 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(67)
async def test_two_answers_before_the_step_continues_resume_it_once() -> None:
    """In LlamaIndex Workflows, both answers resume the step; umbel keeps the second one for a later waiter."""
    resumed: list[str] = []
    both_sent = asyncio.Event()

    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer, waiter_event=Asked(n=1))
            await both_sent.wait()
            resumed.append(answer.text)
            later = await ctx.wait_for_event(Answer, waiter_event=Asked(n=2))
            return StopEvent(result=[answer.text, later.text])

    handler = Asks().run()
    await published(handler, Asked)
    await handler.send_event(Answer(text="first"))
    await handler.send_event(Answer(text="second"))
    both_sent.set()

    assert await handler == ["first", "second"]
    assert resumed == ["first", "first"]  # resumed once by the first answer and once by the second


# -- 68 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(68)
async def test_a_step_that_does_not_exist_or_does_not_accept_is_an_error_at_once() -> None:
    def errors(send: Callable[[Event, str], Any]) -> list[str]:
        found = []
        for event, target in ((Item(n=1), "nobody"), (Other(n=1), "work")):
            with pytest.raises(WorkflowRuntimeError) as caught:
                send(event, target)
            found.append(str(caught.value))
        return found

    class Picky(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent | Item:
            inside = errors(lambda event, target: ctx.send_event(event, step=target))
            await ctx.wait_for_event(Answer, waiter_event=Asked())
            return StopEvent(result=inside)

        @step
        async def work(self, ev: Item) -> StopEvent:
            return StopEvent()

    handler = Picky().run()
    await published(handler, Asked)
    outside = errors(lambda event, target: handler.ctx.send_event(event, step=target))
    await handler.send_event(Answer(text="go on"))

    assert await handler == outside
    assert outside[0].startswith("Step nobody does not exist")
    assert outside[1].startswith("Step work does not accept event of type Other")


@pytest.mark.row(68)
async def test_what_a_step_sends_arrives_even_if_the_step_fails() -> None:
    class Sends(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> Item:
            ctx.send_event(Item(n=7), step="take")
            raise ValueError("after sending")

        @step
        async def take(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

        @catch_error
        async def ignore(self, ev: StepFailedEvent) -> None:
            return None

    assert await Sends().run() == 7


@pytest.mark.row(68)
async def test_what_a_retry_sends_again_arrives_once() -> None:
    """In LlamaIndex Workflows, each attempt delivers it again."""

    class Sends(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def go(self, ctx: Context, ev: StartEvent) -> Item | Other:
            ctx.send_event(Item(n=1))
            if ctx.attempt < 3:
                raise ValueError("after sending")
            return Other(n=ctx.attempt)

        @step(num_workers=1)
        async def take(self, ctx: Context, ev: Item | Other) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item, Other])
            return None if got is None else StopEvent(result=[each.n for each in got])

    handler = Sends().run()
    assert await handler == [1, 3]
    states = [event async for event in handler.stream_events(expose_internal=True, types=[StepStateChanged])]
    begun = Counter(event.name for event in states if event.step_state is StepState.RUNNING)
    assert begun == {"go": 3, "take": 2}


@pytest.mark.row(68)
async def test_a_stop_event_that_is_sent_does_not_end_the_run() -> None:
    class Sends(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(StopEvent(result="sent"))
            return StopEvent(result="returned")

    handler = Sends().run()
    assert await handler == "returned"
    unhandled = [event async for event in handler.stream_events(expose_internal=True, types=[UnhandledEvent])]
    assert [event.event_type for event in unhandled] == ["StopEvent"]
