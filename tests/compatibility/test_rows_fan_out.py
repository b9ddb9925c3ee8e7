"""Rows 27 to 35, and 38: lists that fan out, and steps that gather what comes of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import pytest

from support.runs import idle
from umbel import Context, Workflow, catch_error, step
from umbel.collect import All, Cardinality, Collect, Take
from umbel.errors import WorkflowRuntimeError, WorkflowValidationError
from umbel.events import (
    Event,
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    WorkflowFailedEvent,
)
from umbel.handler import WorkflowHandler
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Item(Event):
    n: int


class Done(Event):
    n: int


class Group(Event):
    ns: list[int]


class Total(Event):
    ns: list[int]


class Left(Event):
    n: int


class Right(Event):
    n: int


class End(HumanResponseEvent):
    pass


class Gates:
    """Lets the executions of a step named `work` end in an order of one's own, each when the one before is recorded."""

    def __init__(self, *order: int) -> None:
        self.order = order
        self.opened = {n: asyncio.Event() for n in order}

    async def passes(self, n: int) -> None:
        await self.opened[n].wait()

    async def open_one_by_one(self, handler: WorkflowHandler) -> None:
        waiting = iter(self.order)
        self.opened[next(waiting)].set()
        async for event in handler.stream_events(expose_internal=True):
            ended = isinstance(event, StepStateChanged) and event.step_state is StepState.NOT_RUNNING
            if ended and event.name == "work" and (n := next(waiting, None)) is not None:
                self.opened[n].set()


def gated(gates: Gates, *, dead: Sequence[int] = ()) -> type[Workflow]:
    """Fans out to 0, 1, 2 and gathers what passes the gates; the branches of `dead` end in None."""

    class Gated(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Done | None:
            await gates.passes(ev.n)
            return None if ev.n in dead else Done(n=ev.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    return Gated


# -- 27 to 31: lists and what gathers them -----------------------------------------------------------------------------


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
async def test_a_branch_that_a_handler_recovers_goes_on_in_the_batch() -> None:
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


# -- 32, 33: Take, and what stands beside a list -----------------------------------------------------------------------


@pytest.mark.row(32)
async def test_take_fires_on_the_nth_arrival_and_the_siblings_go_on() -> None:
    fired, slow_ended = asyncio.Event(), asyncio.Event()

    class Fastest(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Done:
            if ev.n == 2:
                await fired.wait()  # ends after the join has begun, and not before
                slow_ended.set()
            return Done(n=ev.n)

        @step
        async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
            fired.set()
            await slow_ended.wait()
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Fastest().run() == [0, 1]


@pytest.mark.parametrize("produced", [1, 0])
@pytest.mark.row(32)
async def test_take_fires_with_what_there_is_when_the_fan_out_ends_early(produced: int) -> None:
    class Few(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done]:
            return [Done(n=n) for n in range(produced)]

        @step
        async def join(self, evs: Annotated[list[Done], Collect(Take(5))]) -> StopEvent:
            return StopEvent(result=len(evs))

    assert await Few().run() == produced


@pytest.mark.row(32)
def test_cardinalities_are_all_by_default_and_take_of_at_least_one() -> None:
    assert Collect() == Collect(All())
    assert Collect(cardinality=Take(3)).cardinality == Take(n=3)
    for number in (0, -1, 1.5, "2"):
        with pytest.raises(ValueError, match="Take"):
            Take(number)  # type: ignore[arg-type]

    class Most(Cardinality):
        pass

    with pytest.raises(WorkflowValidationError, match="^Collect cardinality on 'evs' must be All"):

        @step
        async def join(self: Any, evs: Annotated[list[Done], Collect(Most())]) -> StopEvent:
            return StopEvent()


@pytest.mark.row(33)
async def test_beside_a_list_another_event_is_dispatched_as_usual() -> None:
    class Either(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done] | Left:
            return Left(n=1)

        @step
        async def alone(self, ev: Left) -> StopEvent:
            return StopEvent(result="no fan-out")

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result="fan-out")

    assert await Either().run() == "no fan-out"


@pytest.mark.row(33)
async def test_a_bare_member_is_an_error_unless_it_is_annotated_too() -> None:
    class Bare(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item] | Left:
            return Item(n=1)  # type: ignore[return-value]

        @step
        async def work(self, ev: Item | Left) -> StopEvent:
            return StopEvent(result=ev.n)

    class Allowed(Bare):
        @step
        async def split(self, ev: StartEvent) -> list[Item] | Item:
            return Item(n=2)

        @step
        async def work(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    with pytest.raises(WorkflowRuntimeError, match="returned a bare Item, which its annotation allows only inside"):
        await Bare().run()
    assert await Allowed().run() == 2


@pytest.mark.row(33)
async def test_every_element_of_a_list_is_an_event() -> None:
    class Mixed(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Done]:
            return [Done(n=1), "two"]  # type: ignore[list-item]

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="^Step function split returned a list with str in it"):
        await Mixed().run()


# -- 34, 35: what cannot be gathered -----------------------------------------------------------------------------------


def stray(target: str | None) -> type[Workflow]:
    """Sends an event that only a join of a fan-out takes, instead of returning it."""

    class Stray(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> list[Done]:
            ctx.send_event(Done(n=99), step=target)
            return [Done(n=1)]

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    return Stray


@pytest.mark.row(34)
async def test_a_sent_event_is_not_gathered_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "umbel"):
        assert await stray(None)().run() == [1]

    assert "step 'join' gathers the events of a fan-out and does not get the Done" in caplog.text


@pytest.mark.row(34)
async def test_an_event_sent_to_a_gathering_step_by_name_fails_the_run() -> None:
    with pytest.raises(WorkflowRuntimeError, match="^Step 'join' gathers the events of a fan-out"):
        await stray("join")().run()


@pytest.mark.row(34)
async def test_an_event_sent_to_it_from_outside_is_refused_to_the_sender() -> None:
    gates = Gates(2, 1, 0)
    handler = gated(gates)().run()

    with pytest.raises(WorkflowRuntimeError, match="^Step 'join' gathers the events of a fan-out"):
        await handler.send_event(Done(n=99), step="join")

    await gates.open_one_by_one(handler)
    assert await handler == [2, 1, 0]


@pytest.mark.row(35)
async def test_a_fan_out_that_nothing_can_close_fails_the_run() -> None:
    class Half(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=1), Item(n=2)]

        @step
        async def work(self, ctx: Context, ev: Item) -> Done:
            if ev.n == 2:
                await ctx.wait_for_event(End)
            return Done(n=ev.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    original = Half().run()
    await idle(original)
    snapshot = original.ctx.to_dict()
    await original.cancel_run()
    del snapshot["umbel"]  # which would tell that the snapshot is damaged
    snapshot["workers"]["work"]["collected_waiters"].clear()

    handler = Half().run(ctx=Context.from_dict(Half(), snapshot))

    with pytest.raises(WorkflowRuntimeError, match="^A fan-out is still open, but no step is left"):
        await handler
    ending = handler.get_stop_event()
    assert isinstance(ending, WorkflowFailedEvent)
    assert ending.attempts is None


# -- 38: retries inside ------------------------------------------------------------------------------------------------


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
