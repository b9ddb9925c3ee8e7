"""Incomplete sets of correlated events at a point from which a run continues."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import umbel
from support.eventually import eventually
from umbel import Context, Event, HumanResponseEvent, JoinExpired, Point, StartEvent, StopEvent, Workflow, step
from umbel.plugins import BasicRuntime

pytestmark = pytest.mark.usefixtures("runtime")


class Paid(Event):
    order: str


class Packed(Event):
    order: str


class Shipped(Event):
    order: str


class Asked(Event):
    pass


class Orders(Workflow):
    """Three orders are paid; a human says when they are packed."""

    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> Paid | Asked | None:
        for order in ("a", "b", "c"):
            ctx.send_event(Paid(order=order))
        return Asked()

    @step
    async def pack(self, ctx: Context[Any], ev: Asked) -> Packed | None:
        await ctx.wait_for_event(HumanResponseEvent)
        for order in ("c", "a", "b"):
            ctx.send_event(Packed(order=order))
        return None

    @step(join_by="order")
    async def ship(self, paid: Paid, packed: Packed) -> Shipped:
        assert paid.order == packed.order
        return Shipped(order=paid.order)

    @step
    async def count(self, ctx: Context[Any], ev: Shipped) -> StopEvent | None:
        found = ctx.collect_events(ev, [Shipped] * 3)
        return None if found is None else StopEvent(result=sorted(each.order for each in found))


class Incomplete(Workflow):
    """Two sets, each of which needs more events than arrive."""

    @step(join_by="order", within_seconds=0.4)
    async def join(self, paid: Paid, shipped: Shipped) -> StopEvent: ...

    @step
    async def collect(self, ctx: Context[Any], ev: Packed) -> StopEvent | None:
        found = ctx.collect_events(ev, [Packed] * 2, key=ev.order, within_seconds=0.4)
        return None if found is None else StopEvent()

    @step
    async def late(self, ctx: Context[Any], ev: JoinExpired) -> StopEvent | None:
        async with ctx.store.edit_state() as state:
            state["keys"] = sorted([*state.get("keys", []), ev.key])
        return StopEvent(result=state["keys"]) if len(state["keys"]) == 2 else None


class Late(Incomplete):
    """Each set gets one event, and nothing else."""

    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> Paid | Packed | Asked | None:
        ctx.send_event(Paid(order="joined"))
        ctx.send_event(Packed(order="collected"))
        return Asked()

    @step
    async def ask(self, ctx: Context[Any], ev: Asked) -> Shipped | None:
        await ctx.wait_for_event(HumanResponseEvent)
        return None


async def waiting(handler: umbel.WorkflowHandler, outcomes: int) -> Point:
    """Return the point at which this many outcomes are recorded and a step waits."""

    def found() -> Point | None:
        points = [*handler.history(kinds=["commit"])]
        waits = any(point.outcome == "suspended" for point in points)
        return points[outcomes - 1] if waits and len(points) >= outcomes else None

    point: Point = await asyncio.to_thread(eventually, found, "a step waits")
    return point


async def scope_fields(runtime: BasicRuntime, run: umbel.WorkflowHandler) -> list[bytes]:
    """Return the names of the run's fan-out fields."""
    store = runtime.store
    asked = store.command("look", "HKEYS", store.locate(run.run_id)["scopes"])
    fields: list[bytes] = await asyncio.to_thread(runtime.portal.call, asked)
    return fields


async def test_a_fork_a_fork_of_it_and_a_rewound_run_go_on_with_the_sets_that_were_open(runtime: BasicRuntime) -> None:
    handler = Orders().run()
    point = await waiting(handler, 2)

    fork = await handler.fork(point)
    second = await fork.fork(1 + len([entry async for entry in fork.history(kinds=["restore"])]))
    continued = Orders().run(ctx=Context.from_dict(Orders(), (await handler.at(point)).to_dict()))
    await handler.rewind(point, stop_running=True)

    for run in (handler, fork, second, continued):
        fields = await scope_fields(runtime, run)
        assert not [name for name in fields if name.startswith(b"~")], "a key that is shared is no fan-out"
        await run.send_event(HumanResponseEvent(response="now"))
        assert await run == ["a", "b", "c"]
        assert (await run.verify()).holds


async def test_sets_that_have_to_become_complete_in_time_still_have_to() -> None:
    handler = Late().run()
    point = await waiting(handler, 3)

    fork = await handler.fork(point)
    continued = Late().run(ctx=Context.from_dict(Late(), (await handler.at(point)).to_dict()))
    assert await handler == await fork == await continued == ["collected", "joined"]
    await handler.rewind(point)
    assert await handler == ["collected", "joined"]
    assert (await handler.verify()).holds
    assert (await fork.verify()).holds


#: Whether the step of `Fails` fails.
BROKEN: set[str] = set()


class Fails(Incomplete):
    """Fails with two sets open, and continues when it is retried."""

    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> Paid | Packed | Asked | None:
        ctx.send_event(Paid(order="joined"))
        ctx.send_event(Packed(order="collected"))
        return Asked()

    @step
    async def fail(self, ctx: Context[Any], ev: Asked) -> Shipped | None:
        if ctx.run_id in BROKEN:
            raise ValueError("broken")
        return None


async def test_sets_whose_time_is_over_while_their_run_has_ended_expire_when_it_is_retried(
    runtime: BasicRuntime,
) -> None:
    BROKEN.add("broken-1")
    handler = Fails().run(run_id="broken-1")
    with pytest.raises(ValueError, match="broken"):
        await handler
    store, outbox = runtime.store, runtime.store.locate(handler.run_id)["outbox"]

    def none_is_due() -> bool:
        members = runtime.portal.call(store.command("look", "ZRANGE", outbox, 0, -1))
        return not [each for each in members if each.startswith((b"join|broken-1|", b"buffer|broken-1|"))]

    await asyncio.to_thread(eventually, none_is_due, "both limits are over")

    BROKEN.clear()
    await runtime.portal.run(runtime.engine.retry(handler.run_id))
    assert await handler == ["collected", "joined"]
    assert (await handler.verify()).holds
