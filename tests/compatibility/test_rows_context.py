"""Rows 59 to 62: where each method of the context is allowed, and collecting events."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from support.runs import published
from umbel import Context, Workflow, step
from umbel.errors import ContextStateError, WorkflowRuntimeError
from umbel.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    UnhandledEvent,
)


class Item(Event):
    n: int


class Other(Event):
    n: int


class Asked(InputRequiredEvent):
    n: int = 0


class Answer(HumanResponseEvent):
    text: str
    n: int = 0


class Simple(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.get("x"))


# -- 59 ----------------------------------------------------------------------------------------------------------------

Calls = dict[str, Callable[[Context], Any]]

IN_STEPS: Calls = {
    "attempt": lambda ctx: ctx.attempt,
    "collect_events": lambda ctx: ctx.collect_events(Item(n=1), [Item]),
    "idempotency_key": lambda ctx: ctx.idempotency_key,
    "retry_info": lambda ctx: ctx.retry_info(),
    "wait_for_event": lambda ctx: ctx.wait_for_event(Answer),
    "write_event_to_stream": lambda ctx: ctx.write_event_to_stream(Item(n=1)),
}
BESIDE_RUNS: Calls = {
    "get_result": lambda ctx: ctx.get_result(),
    "running_steps": lambda ctx: ctx.running_steps(),
    "stream_events": lambda ctx: ctx.stream_events(),
}
OUTSIDE_OF_STEPS: Calls = {"to_dict": lambda ctx: ctx.to_dict()}


async def refusals(ctx: Context, calls: Calls) -> dict[str, str]:
    """Return the error with which each of the calls is refused."""
    found = {}
    for name, call in calls.items():
        with pytest.raises(ContextStateError) as caught:
            await made(call, ctx)
        found[name] = str(caught.value)
    return found


async def made(call: Callable[[Context], Any], ctx: Context) -> None:
    """Make a call, and await its result if possible."""
    answer = call(ctx)
    if inspect.isawaitable(answer):
        await answer


@pytest.mark.filterwarnings("ignore:Context.get_result")
@pytest.mark.row(59)
async def test_each_method_is_refused_where_it_does_not_belong() -> None:
    class Asks(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await refusals(ctx, BESIDE_RUNS | OUTSIDE_OF_STEPS))

    workflow = Asks()
    before = await refusals(
        Context(workflow), {**IN_STEPS, **BESIDE_RUNS, "send_event": lambda c: c.send_event(Item(n=1))}
    )
    handler = workflow.run()
    inside = await handler
    beside = await refusals(handler.ctx, IN_STEPS)

    for found, where in ((before, "no run yet"), (inside, "a running step"), (beside, "a run as its caller sees it")):
        for name, text in found.items():
            assert text.startswith(f"Context.{name}() cannot be used here: ")
            assert where in text


@pytest.mark.row(59)
async def test_what_belongs_to_all_faces() -> None:
    class Asks(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.warns(DeprecationWarning, match="always true in a step"):
                running = ctx.is_running
            await ctx.store.set("n", await ctx.store.get("n") + 1)
            await ctx.wait_for_event(Answer, waiter_event=Asked())
            return StopEvent(result=running)

    workflow = Asks()
    ctx = Context(workflow)
    assert not ctx.is_running
    await ctx.store.set("n", 1)

    handler = workflow.run(ctx=ctx)
    await published(handler, Asked)

    assert handler.ctx is ctx
    assert (ctx.is_running, await ctx.running_steps()) == (True, [])
    ctx.send_event(Answer(text="go on"))
    with pytest.warns(DeprecationWarning, match="await the handler"):
        assert await ctx.get_result() is True
    assert not ctx.is_running
    assert [type(event) async for event in ctx.stream_events()].count(UnhandledEvent) == 0
    assert await ctx.store.get("n") == 3  # the step was called twice: the code before the wait runs again


# -- 60 ----------------------------------------------------------------------------------------------------------------


def helper(n: int) -> str:
    """Uses the context although neither it nor its caller has it as a parameter."""
    ctx = Context.get_step_context()
    ctx.write_event_to_stream(Item(n=n))
    return ctx.run_id


@pytest.mark.row(60)
async def test_a_helper_finds_the_context_of_the_step_that_calls_it() -> None:
    class Helped(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            await asyncio.gather(*(asyncio.to_thread(helper, n) for n in (1, 2)))
            return Item(n=3)

        @step
        def second(self, ev: Item) -> StopEvent:
            return StopEvent(result=helper(ev.n))

    handler = Helped().run()
    assert await handler == handler.run_id
    assert sorted([event.n async for event in handler.stream_events(types=[Item])]) == [1, 2, 3]


@pytest.mark.row(60)
def test_outside_of_a_step_there_is_none() -> None:
    with pytest.raises(WorkflowRuntimeError, match="outside of a step"):
        Context.get_step_context()


# -- 61 ----------------------------------------------------------------------------------------------------------------


def collecting(
    sent: list[Event], expected: list[type[Event]], buffer_of: Callable[[Any], str | None]
) -> type[Workflow]:
    """Return a workflow that passes `sent` to `collect_events` one by one, and ends with the complete sets."""

    class Collects(Workflow):
        @step
        async def feed(self, ctx: Context, ev: StartEvent) -> Item | Other | None:
            for event in sent:
                ctx.send_event(event)
            return None

        @step(num_workers=1)
        async def gather(self, ctx: Context, ev: Item | Other) -> StopEvent | None:
            got = ctx.collect_events(ev, expected, buffer_id=buffer_of(ev))
            sets = await ctx.store.get("sets", default=[])
            if got is not None:
                sets.append([f"{type(each).__name__}{each.n}" for each in got])
            await ctx.store.set("sets", sets)
            seen = await ctx.store.get("seen", default=0) + 1
            await ctx.store.set("seen", seen)
            return StopEvent(result=sets) if seen == len(sent) else None

    return Collects


ITEMS_THEN_OTHERS = [*(Item(n=n) for n in (1, 2, 3)), *(Other(n=n) for n in (1, 2))]


@pytest.mark.row(61)
async def test_a_set_comes_in_the_order_asked_for_and_surplus_events_stay_for_the_next() -> None:
    """LlamaIndex Workflows drops the second and third Item on arrival; umbel keeps them for the next set."""
    sets = await collecting(ITEMS_THEN_OTHERS, [Other, Item], lambda ev: None)().run()

    assert sets == [["Other1", "Item1"], ["Other2", "Item2"]]


@pytest.mark.row(61)
async def test_equal_types_come_in_the_order_of_their_arrival() -> None:
    sets = await collecting(ITEMS_THEN_OTHERS, [Item, Other, Item], lambda ev: None)().run()

    assert sets == [["Item1", "Other1", "Item2"]]


@pytest.mark.row(61)
async def test_each_buffer_id_is_a_buffer_of_its_own() -> None:
    even_and_odd = [Item(n=n) for n in (1, 2, 3, 4)]
    sets = await collecting(even_and_odd, [Item, Item], lambda ev: "even" if ev.n % 2 == 0 else "odd")().run()

    assert sets == [["Item1", "Item3"], ["Item2", "Item4"]]


@pytest.mark.row(61)
async def test_nothing_expected_is_complete_at_once() -> None:
    assert await collecting([Item(n=1)], [], lambda ev: None)().run() == [[]]


# -- 62 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(62)
async def test_fifty_events_in_parallel_make_one_set_and_call_the_step_fifty_times() -> None:
    """LlamaIndex Workflows re-executes a step whose buffer has changed meanwhile; umbel's exchange is atomic."""
    calls: Counter[int] = Counter()
    complete: list[int] = []

    class Parallel(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(50):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=50)
        async def gather(self, ctx: Context, ev: Item) -> StopEvent | None:
            calls[ev.n] += 1
            got = ctx.collect_events(ev, [Item] * 50)
            if got is None:
                return None
            complete.append(ev.n)
            return StopEvent(result=sorted(each.n for each in got))

    assert await Parallel().run() == list(range(50))
    assert len(complete) == 1
    assert calls == Counter(range(50))
