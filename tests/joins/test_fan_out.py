"""Fan-out and fan-in: returned lists, send_event with collect_events, joins of several parameters."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest

from umbel import (
    Collect,
    Context,
    Event,
    StartEvent,
    StepStateChanged,
    StopEvent,
    Take,
    Workflow,
    WorkflowRuntimeError,
    step,
)

pytestmark = pytest.mark.usefixtures("runtime")


class Item(Event):
    n: int


class Done(Event):
    n: int


class Group(Event):
    size: int


class Total(Event):
    n: int


async def test_a_returned_list_is_one_event_each_and_its_join_fires_once() -> None:
    class Squares(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(ev.n)]

        @step(num_workers=10)
        async def square(self, ev: Item) -> Done:
            return Done(n=ev.n**2)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Squares().run(n=30) == [n * n for n in range(30)]


async def test_an_empty_list_fires_the_join_with_nothing() -> None:
    class Nothing(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done]:
            return []

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    assert await Nothing().run() == 0


async def test_a_branch_that_returns_none_shrinks_the_batch() -> None:
    class Filter(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(6)]

        @step
        async def odd(self, ev: Item) -> Done | None:
            return Done(n=ev.n) if ev.n % 2 else None

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Filter().run() == [1, 3, 5]


async def test_nested_fan_outs_join_at_the_innermost_level_first() -> None:
    class Nested(Workflow):
        @step
        async def groups(self, ev: StartEvent) -> list[Group]:
            return [Group(size=size) for size in (3, 0, 2)]

        @step
        async def items(self, ev: Group) -> list[Item]:
            return [Item(n=n) for n in range(ev.size)]

        @step
        async def work(self, ev: Item) -> Done:
            return Done(n=ev.n)

        @step
        async def inner(self, evs: list[Done]) -> Total:
            return Total(n=len(evs))

        @step
        async def outer(self, evs: list[Total]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Nested().run() == [0, 2, 3]


async def test_take_fires_on_the_nth_arrival_while_siblings_still_work() -> None:
    never = asyncio.Event()

    class First(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step
        async def work(self, ev: Item) -> Done:
            if ev.n >= 2:
                await never.wait()
            return Done(n=ev.n)

        @step
        async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await First().run() == [0, 1]


async def test_a_stream_that_closes_early_fires_take_with_what_arrived() -> None:
    class Few(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done]:
            return [Done(n=1)]

        @step
        async def join(self, evs: Annotated[list[Done], Collect(Take(5))]) -> StopEvent:
            return StopEvent(result=len(evs))

    assert await Few().run() == 1


async def test_a_join_of_several_parameters_fires_for_every_full_set() -> None:
    class Left(Event):
        n: int

    class Right(Event):
        n: int

    class Pairs(Workflow):
        @step
        async def feed(self, ctx: Context, ev: StartEvent) -> Left | Right | None:
            for n in range(3):
                ctx.send_event(Left(n=n))
                ctx.send_event(Right(n=n * 10))
            return None

        @step
        async def pair(self, left: Left, right: Right) -> Done:
            return Done(n=left.n + right.n)

        @step
        async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
            all_three = ctx.collect_events(ev, [Done] * 3)
            return StopEvent(result=sorted(d.n for d in all_three)) if all_three else None

    assert await Pairs().run() == [0, 11, 22]


async def test_send_event_and_collect_events_make_a_fan_out_and_fan_in() -> None:
    class Parallel(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(50):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=8)
        async def work(self, ev: Item) -> Done:
            return Done(n=ev.n)

        @step(num_workers=8)
        async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
            got = ctx.collect_events(ev, [Done] * 50)
            return None if got is None else StopEvent(result=sorted(d.n for d in got))

    assert await Parallel().run() == list(range(50))


async def test_collect_events_returns_the_set_in_the_order_that_was_asked_for() -> None:
    class Mixed(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
            ctx.send_event(Item(n=1))
            ctx.send_event(Done(n=2))
            ctx.send_event(Item(n=3))
            return None

        @step(num_workers=1)
        async def gather(self, ctx: Context, ev: Item | Done) -> StopEvent | None:
            got = ctx.collect_events(ev, [Done, Item, Item])
            return None if got is None else StopEvent(result=[type(e).__name__ for e in got])

    assert await Mixed().run() == ["Done", "Item", "Item"]


async def test_no_more_than_num_workers_of_a_step_run_at_once() -> None:
    running, most = 0, 0
    full = asyncio.Event()

    class Narrow(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(12)]

        @step(num_workers=3)
        async def work(self, ev: Item) -> Done:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 3:
                full.set()
            await full.wait()  # the first three can only continue together
            running -= 1
            return Done(n=ev.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    handler = Narrow().run()
    assert await handler == 12
    assert most == 3
    states = [event async for event in handler.stream_events(expose_internal=True, types=[StepStateChanged])]
    assert {event.worker_id for event in states if event.name == "work"} == {"0", "1", "2", "<enqueued>"}


async def test_a_large_fan_out_is_staged_and_complete() -> None:
    class Large(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done]:
            return [Done(n=n) for n in range(2000)]

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sum(ev.n for ev in evs))

    assert await Large().run() == sum(range(2000))


async def test_sending_to_a_join_of_a_fan_out_from_outside_of_it_fails_the_step() -> None:
    class Stray(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> list[Done] | None:
            ctx.send_event(Done(n=1), step="join")
            return None

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="Step 'join' gathers the events of a fan-out"):
        await Stray().run()


async def test_send_event_names_a_step_that_does_not_exist_or_does_not_accept() -> None:
    class Picky(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item | StopEvent:
            found = []
            for event, target in ((Item(n=1), "nobody"), (Done(n=1), "work")):
                try:
                    ctx.send_event(event, step=target)
                except WorkflowRuntimeError as error:
                    found.append(str(error))
            return StopEvent(result=found)

        @step
        async def work(self, ev: Item) -> StopEvent:
            return StopEvent()

    missing, wrong = await Picky().run()
    assert missing.startswith("Step nobody does not exist")
    assert wrong.startswith("Step work does not accept event of type Done")


class Part(Event):
    n: int = 0


class FinePart(Part):
    pass


class Gathering(Workflow):
    """Is given an event of a subclass first, which does not count."""

    @step
    async def begin(self, ev: StartEvent) -> FinePart:
        return FinePart()

    @step(accept_event_subclasses=True)
    async def gather(self, ctx: Context, ev: Part) -> Part | StopEvent | None:
        found = ctx.collect_events(ev, [Part, Part])
        if isinstance(ev, FinePart):
            ctx.send_event(Part(n=1))
            ctx.send_event(Part(n=2))
        return None if found is None else StopEvent(result=sorted(each.n for each in found))


async def test_an_event_of_a_subclass_that_collect_events_leaves_out_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await Gathering(timeout=60).run() == [1, 2]

    [said] = [each.getMessage() for each in caplog.records if getattr(each, "action", "") == "subclass_not_collected"]
    assert "given a FinePart and leaves it out: it collects the exact class Part" in said
