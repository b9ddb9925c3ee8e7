"""Joins of several correlated events: one of each for each value that they share."""

from __future__ import annotations

from typing import Annotated

import pytest

from umbel import (
    All,
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    JoinExpired,
    StartEvent,
    StopEvent,
    Take,
    Workflow,
    step,
)
from umbel.errors import WorkflowValidationError
from umbel.orchestration.history.verify import verify
from umbel.plugins import BasicRuntime

pytestmark = pytest.mark.usefixtures("runtime")


class Paid(Event):
    order: str
    amount: int = 0


class Packed(Event):
    order: str


class Shipped(Event):
    order: str
    amount: int


async def test_events_that_share_a_value_are_joined_whatever_comes_between() -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Paid | Packed | None:
            for order in ("a", "b", "c"):
                ctx.send_event(Paid(order=order, amount=ord(order)))
            for order in ("c", "a", "b"):
                ctx.send_event(Packed(order=order))
            return None

        @step(join_by="order")
        async def ship(self, paid: Paid, packed: Packed) -> Shipped:
            assert paid.order == packed.order
            return Shipped(order=paid.order, amount=paid.amount)

        @step
        async def count(self, ctx: Context, ev: Shipped) -> StopEvent | None:
            found = ctx.collect_events(ev, [Shipped] * 3)
            return None if found is None else StopEvent(result=sorted(f"{each.order}{each.amount}" for each in found))

    assert await Orders().run() == ["a97", "b98", "c99"]


async def test_a_value_that_comes_again_begins_another_set() -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Paid | Packed | None:
            for amount in (1, 2):
                ctx.send_event(Paid(order="a", amount=amount))
                ctx.send_event(Packed(order="a"))
            return None

        @step(join_by="order")
        async def ship(self, paid: Paid, packed: Packed) -> Shipped:
            return Shipped(order=paid.order, amount=paid.amount)

        @step
        async def count(self, ctx: Context, ev: Shipped) -> StopEvent | None:
            found = ctx.collect_events(ev, [Shipped] * 2)
            return None if found is None else StopEvent(result=sorted(each.amount for each in found))

    assert await Orders().run() == [1, 2]


async def test_what_does_not_become_complete_in_time_is_dropped_and_the_step_for_that_is_asked() -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Paid | Packed | None:
            ctx.send_event(Paid(order="a", amount=1))
            ctx.send_event(Paid(order="b", amount=2))
            ctx.send_event(Packed(order="b"))
            return None

        @step(join_by="order", within_seconds=0.3)
        async def ship(self, paid: Paid, packed: Packed) -> Shipped | None:
            return None

        @step
        async def shipped(self, ev: Shipped) -> StopEvent: ...

        @step
        async def late(self, ev: JoinExpired) -> StopEvent:
            return StopEvent(result=[ev.step, ev.key, ev.arrived, ev.missing])

    handler = Orders().run()
    assert await handler == ["ship", "a", ["Paid"], ["Packed"]]
    assert [event.key async for event in handler.stream_events(types=[JoinExpired])] == ["a"]


async def test_an_expired_set_is_on_the_stream_also_if_no_step_accepts_that() -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Paid | None:
            return Paid(order="a")

        @step(within_seconds=0.2)
        async def ship(self, paid: Paid, packed: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    handler = Orders().run()
    async for event in handler.stream_events():
        assert isinstance(event, JoinExpired)
        assert (event.key, event.arrived) == (None, ["Paid"])
        break
    await handler.cancel_run()


def test_a_join_by_a_field_that_an_event_lacks_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match="Event has no such field"):

        class Odd(Workflow):
            @step(join_by="order")
            async def ship(self, paid: Paid, other: Event) -> StopEvent: ...

    with pytest.raises(WorkflowValidationError, match="needs several event parameters"):

        class Single(Workflow):
            @step(within_seconds=3)
            async def ship(self, paid: Paid) -> StopEvent: ...


class Part(Event):
    order: str
    n: int


class Worked(Event):
    order: str
    n: int


class Counted(Event):
    order: str
    ns: list[int]


async def test_a_fan_in_by_a_field_runs_once_for_each_of_its_values() -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Part]:
            return [Part(order=order, n=n) for n, order in enumerate(ev.orders)]

        @step
        async def work(self, ev: Part) -> Worked | None:
            return None if ev.n == 5 else Worked(order=ev.order, n=10 * ev.n)

        @step
        async def gather(self, ctx: Context, evs: Annotated[list[Worked], Collect(All(), by="order")]) -> Counted:
            return Counted(order=evs[0].order, ns=sorted(ev.n for ev in evs))

        @step
        async def end(self, ctx: Context, ev: Counted) -> StopEvent | None:
            found = ctx.collect_events(ev, [Counted] * 3)
            return None if found is None else StopEvent(result=sorted([each.order, *each.ns] for each in found))

    assert await Orders().run(orders="abacbc") == [["a", 0, 20], ["b", 10, 40], ["c", 30]]


async def test_large_groups_and_many_of_them_are_brought_to_redis_in_parts(runtime: BasicRuntime) -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Worked]:
            return [Worked(order=name, n=n) for name, size in ev.sizes.items() for n in range(size)]

        @step(num_workers=8)
        async def gather(self, evs: Annotated[list[Worked], Collect(All(), by="order")]) -> Counted:
            assert [ev.n for ev in evs] == list(range(len(evs)))
            return Counted(order=evs[0].order, ns=[len(evs)])

        @step(num_workers=1)
        async def end(self, ctx: Context, ev: Counted) -> StopEvent | None:
            async with ctx.store.edit_state() as state:
                state["sizes"] = found = {**state.get("sizes", {}), ev.order: ev.ns[0]}
            return StopEvent(result=found) if len(found) == 64 else None

    sizes = {"huge": 601, "whole": 250, "one": 1, "two": 2} | {f"small {n}": 3 for n in range(60)}
    handler = Orders().run(sizes=sizes)
    assert await handler == sizes
    assert runtime.portal.call(verify(runtime.store, handler.run_id)).holds


def test_a_fan_in_by_a_field_that_an_event_lacks_or_of_the_first_ones_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match="Paid has no such field"):

        class Odd(Workflow):
            @step
            async def gather(self, evs: Annotated[list[Paid], Collect(All(), by="customer")]) -> StopEvent: ...

    with pytest.raises(ValueError, match="needs All"):
        Collect(Take(2), by="order")
    with pytest.raises(ValueError, match="needs Take"):
        Collect(All(), cancel_rest=True)


async def test_collected_events_are_of_one_key_and_those_that_come_too_late_are_dropped() -> None:
    class Orders(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Paid | Packed | None:
            for event in (Paid(order="a"), Paid(order="b"), Packed(order="b"), Packed(order="c")):
                ctx.send_event(event)
            return None

        @step
        async def ship(self, ctx: Context, ev: Paid | Packed) -> Shipped | None:
            found = ctx.collect_events(ev, [Paid, Packed], key=ev.order, within_seconds=2)
            if found is not None:
                assert [type(each) for each in found] == [Paid, Packed]
                await ctx.store.set("shipped", [each.order for each in found])
            return None

        @step
        async def shipped(self, ev: Shipped) -> StopEvent: ...

        @step
        async def late(self, ctx: Context, ev: JoinExpired) -> StopEvent | None:
            async with ctx.store.edit_state() as state:
                state["late"] = [*state.get("late", []), [ev.key, ev.arrived]]
                late = sorted(state["late"])
            return None if len(late) < 2 else StopEvent(result=[await ctx.store.get("shipped"), late])

    assert await Orders().run() == [["b", "b"], [["a", ["Paid"]], ["c", ["Packed"]]]]
