"""Rows 32 to 35: `Take`, other events next to a list, and events that cannot be gathered."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import pytest

from support.flows.fan_out import Done, End, Gates, Item, Left, gated
from support.runs import idle
from umbel import Context, Workflow, step
from umbel.collect import All, Cardinality, Collect, Take
from umbel.errors import WorkflowRuntimeError, WorkflowValidationError
from umbel.events import (
    StartEvent,
    StopEvent,
    WorkflowFailedEvent,
)
from umbel.tasks.snapshots.event_texts import with_digest

# -- 32, 33: Take, and other events next to a list ---------------------------------------------------------------------


@pytest.mark.row(32)
async def test_take_fires_on_the_nth_arrival_and_the_siblings_continue() -> None:
    fired, slow_ended = asyncio.Event(), asyncio.Event()

    class Fastest(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Done:
            if ev.n == 2:
                await fired.wait()  # ends only after the join has begun
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


# -- 34, 35: events that cannot be gathered ----------------------------------------------------------------------------


def stray(target: str | None) -> type[Workflow]:
    """Return a workflow that sends, instead of returning, an event that only a fan-in step accepts."""

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
    snapshot["workers"]["work"]["collected_waiters"].clear()

    handler = Half().run(ctx=Context.from_dict(Half(), with_digest(snapshot)))

    with pytest.raises(WorkflowRuntimeError, match="^A fan-out is still open, but no step is left"):
        await handler
    ending = handler.get_stop_event()
    assert isinstance(ending, WorkflowFailedEvent)
    assert ending.attempts is None
