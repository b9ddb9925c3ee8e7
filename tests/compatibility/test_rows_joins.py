"""Rows 36 and 37: joins of several parameters."""

from __future__ import annotations

from typing import Any

import pytest

from umbel import Context, Workflow, step
from umbel.errors import WorkflowValidationError
from umbel.events import Event, StartEvent, StopEvent


class Item(Event):
    n: int


class Left(Event):
    n: int


class Right(Event):
    n: int


@pytest.mark.row(36)
async def test_a_join_fires_for_every_full_set_in_order_of_arrival() -> None:
    sets: list[tuple[int, int]] = []

    class Pairs(Workflow):
        @step
        async def feed(self, ctx: Context, ev: StartEvent) -> Left | Right | None:
            for n in range(3):
                ctx.send_event(Left(n=n))
            for n in range(3):
                ctx.send_event(Right(n=n * 10))
            return None

        @step(num_workers=1)
        async def pair(self, left: Left, right: Right) -> StopEvent | None:
            sets.append((left.n, right.n))
            return StopEvent(result=sets) if len(sets) == 3 else None

    await Pairs().run()
    assert sets == [(0, 0), (1, 10), (2, 20)]


@pytest.mark.row(36)
async def test_two_parameters_of_one_class_are_bound_in_order_of_arrival() -> None:
    class Twins(Workflow):
        @step
        async def feed(self, ctx: Context, ev: StartEvent) -> Left | None:
            for n in (1, 2):
                ctx.send_event(Left(n=n))
            return None

        @step
        async def pair(self, first: Left, second: Left) -> StopEvent:
            return StopEvent(result=[first.n, second.n])

    assert await Twins().run() == [1, 2]


@pytest.mark.row(36)
async def test_with_subclasses_a_set_is_found_whatever_comes_first() -> None:
    class Small(Left):
        pass

    def flow(*order: Event) -> Workflow:
        class Overlapping(Workflow):
            @step
            async def feed(self, ctx: Context, ev: StartEvent) -> Left | Small | None:
                for event in order:
                    ctx.send_event(event)
                return None

            @step(accept_event_subclasses=True)
            async def pair(self, some: Left, small: Small) -> StopEvent:
                return StopEvent(result=[some.n, small.n])

        return Overlapping()

    assert await flow(Small(n=1), Left(n=2)).run() == [2, 1]
    assert await flow(Left(n=2), Small(n=1)).run() == [2, 1]


@pytest.mark.row(37)
def test_a_join_of_events_from_different_levels_is_refused() -> None:
    class Across(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Left]:
            return []

        @step
        async def aside(self, ev: StartEvent) -> Right:
            return Right(n=1)

        @step
        async def pair(self, left: Left, right: Right) -> StopEvent:
            return StopEvent()

    with pytest.raises(
        WorkflowValidationError,
        match="^Step 'pair' joins event parameters that are never produced at a common stream level",
    ):
        Across().validate()


@pytest.mark.row(37)
def test_each_parameter_of_a_join_names_one_class_and_lists_stand_alone() -> None:
    with pytest.raises(WorkflowValidationError, match="require each event parameter to declare a single event type"):

        @step
        async def union(self: Any, left: Left | Item, right: Right) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="cannot be combined with other event parameters"):

        @step
        async def list_and_event(self: Any, left: list[Left], right: Right) -> StopEvent:
            return StopEvent()
