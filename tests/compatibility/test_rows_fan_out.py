"""Rows 27 to 31, and 38: lists that fan out, and steps that gather their results."""

from __future__ import annotations

from collections import Counter

import pytest

from support.flows.fan_out import Done, End, Gates, Group, Item, Left, Right, Total, gated
from support.runs import idle
from umbel import Context, Workflow, catch_error, step
from umbel.events import (
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
)
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed

# -- 27 to 31: lists, and the steps that gather them -------------------------------------------------------------------


@pytest.mark.row(27)
async def test_each_element_of_a_returned_list_is_an_event_of_its_own() -> None:
    seen: list[str] = []

    class Spread(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item | Left]:
            return [Item(n=0), Left(n=1), Item(n=2)]

        @step
        async def work(self, ev: Item) -> Done:
            seen.append(f"work {ev.n}")
            return Done(n=ev.n)

        @step
        async def other(self, ev: Left) -> Done:
            seen.append(f"other {ev.n}")
            return Done(n=ev.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    assert await Spread().run() == 3
    assert sorted(seen) == ["other 1", "work 0", "work 2"]


@pytest.mark.row(27)
async def test_each_step_that_accepts_an_element_adds_to_the_batch() -> None:
    class Twice(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=1), Item(n=2)]

        @step
        async def plain(self, ev: Item) -> Done:
            return Done(n=ev.n)

        @step
        async def tenfold(self, ev: Item) -> Done:
            return Done(n=ev.n * 10)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Twice().run() == [1, 2, 10, 20]


@pytest.mark.row(28)
async def test_the_join_fires_once_with_the_events_in_order_of_arrival() -> None:
    gates = Gates(2, 0, 1)
    handler = gated(gates)().run()
    await gates.open_one_by_one(handler)

    assert await handler == [2, 0, 1]
    states = [event async for event in handler.stream_events(expose_internal=True)]
    begun = Counter(
        state.name for state in states if isinstance(state, StepStateChanged) and state.step_state is StepState.RUNNING
    )
    assert begun == {"split": 1, "work": 3, "join": 1}


@pytest.mark.row(28)
async def test_a_union_is_gathered_by_one_parameter() -> None:
    class Both(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Left | Right]:
            return [Left(n=1), Right(n=2)]

        @step
        async def join(self, evs: list[Left | Right] | None) -> StopEvent:
            return StopEvent(result=[type(ev).__name__ for ev in evs or ()])

    assert await Both().run() == ["Left", "Right"]


@pytest.mark.row(29)
async def test_an_empty_list_fires_the_join_with_an_empty_list() -> None:
    class Empty(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done]:
            return []

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=evs)

    assert await Empty().run() == []


@pytest.mark.row(29)
async def test_none_opens_no_fan_out_so_the_join_does_not_fire() -> None:
    joined = False

    class Nothing(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done] | None:
            return None

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            nonlocal joined
            joined = True
            return StopEvent()

        @step
        async def end(self, ev: End) -> StopEvent:
            return StopEvent(result="ended from outside")

    handler = Nothing().run()
    await idle(handler)
    await handler.send_event(End())

    assert await handler == "ended from outside"
    assert not joined


@pytest.mark.row(30)
async def test_a_branch_that_returns_none_shrinks_the_batch() -> None:
    gates = Gates(2, 1, 0)
    handler = gated(gates, dead=[1])().run()
    await gates.open_one_by_one(handler)

    assert await handler == [2, 0]


@pytest.mark.row(30)
async def test_a_branch_that_a_handler_recovers_stays_in_the_batch() -> None:
    class Recovered(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Done:
            if ev.n == 1:
                raise ValueError("one of them")
            return Done(n=ev.n)

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> Done:
            return Done(n=-1)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Recovered().run() == [-1, 0, 2]


@pytest.mark.row(31)
async def test_fan_outs_within_a_fan_out_join_at_the_innermost_level() -> None:
    class Nested(Workflow):
        @step
        async def groups(self, ev: StartEvent) -> list[Group]:
            return [Group(ns=[1, 2]), Group(ns=[]), Group(ns=[3])]

        @step
        async def items(self, ev: Group) -> list[Item]:
            return [Item(n=n) for n in ev.ns]

        @step
        async def inner(self, evs: list[Item]) -> Total:
            return Total(ns=sorted(ev.n for ev in evs))

        @step
        async def outer(self, evs: list[Total]) -> StopEvent:
            return StopEvent(result=sorted(ev.ns for ev in evs))

    assert await Nested().run() == [[], [1, 2], [3]]


# -- 38: retries inside a fan-out --------------------------------------------------------------------------------------


@pytest.mark.row(38)
async def test_a_retry_keeps_its_place_in_the_batch_open() -> None:
    class Flaky(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step(retry_policy=retry_policy(wait=wait_fixed(0.05), stop=stop_after_attempt(3)))
        async def work(self, ctx: Context, ev: Item) -> Done:
            if ev.n == 1 and ctx.retry_info().retry_number < 2:
                raise ConnectionError("twice")
            return Done(n=ev.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Flaky().run() == [0, 1, 2]
