"""Groups of a `Collect(by=…)`, and fan-ins of a fan-out that is open, at a point from which a run continues."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import pytest

import umbel
from support.eventually import eventually
from umbel import All, Collect, Context, Event, HumanResponseEvent, Point, StartEvent, StopEvent, Take, Workflow, step

pytestmark = pytest.mark.usefixtures("runtime")


class Part(Event):
    number: int
    kind: int


class Made(Event):
    kind: int


class Packed(Event):
    kind: int
    parts: int
    asked: int


class Parts(Workflow):
    """Parts of several kinds are made and packed by kind; a human confirms each group, once."""

    @step
    async def begin(self, ctx: Context[Any], ev: StartEvent) -> list[Part]:
        await ctx.store.set("groups", ev.groups)
        return [Part(number=number, kind=number % ev.groups) for number in range(ev.parts)]

    @step(num_workers=50)
    async def make(self, ev: Part) -> Made:
        return Made(kind=ev.kind)

    @step
    async def pack(self, ctx: Context[Any], evs: Annotated[list[Made], Collect(All(), by="kind")]) -> Packed:
        kind = evs[0].kind
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id=f"kind-{kind}", requirements={"kind": kind})
        return Packed(kind=kind, parts=len(evs), asked=answer.kind)

    @step
    async def count(self, ctx: Context[Any], ev: Packed) -> StopEvent | None:
        found = ctx.collect_events(ev, [Packed] * await ctx.store.get("groups"))
        return None if found is None else StopEvent(result=sorted((each.kind, each.parts) for each in found))


async def suspended(handler: umbel.WorkflowHandler, times: int) -> list[Point]:
    """Wait until steps have begun to wait this many times; return the points from the grouping on."""

    def found() -> list[Point] | None:
        points = [*handler.history(kinds=["commit"])]
        grouped = [place for place, point in enumerate(points) if point.outcome == "grouped"]
        waits = sum(point.outcome == "suspended" for point in points)
        return points[grouped[0] :] if waits >= times else None

    points: list[Point] = await asyncio.to_thread(eventually, found, f"steps have waited {times} times")
    return points


def work_at(point: umbel.RunAt) -> dict[str, Any]:
    """What each work item of a point receives: its step, events, fan-in, answers and counts."""
    return {item.work_id: replace(item, running=False) for item in point.work().items}


@pytest.mark.parametrize("parts", [6, 600], ids=["small", "large"])
async def test_what_continues_from_any_point_after_the_grouping_has_all_events_of_each_group(parts: int) -> None:
    handler = Parts().run(parts=parts, groups=2)
    points = await suspended(handler, 2)
    expected = [[0, parts // 2], [1, parts // 2]]

    forks = []
    for point in points:
        fork = await handler.fork(point)
        begun = 1 + len([entry async for entry in fork.history(kinds=["restore"])])
        assert work_at(await fork.at(begun)) == work_at(await handler.at(point))
        forks.append(fork)
    data = (await handler.at(points[-1])).to_dict()
    continued = Parts().run(ctx=Context.from_dict(Parts(), data))
    await handler.rewind(points[0], stop_running=True)

    for run in (handler, continued, *forks):
        for kind in (0, 1):
            await run.send_event(HumanResponseEvent(kind=kind))
        assert [list(each) for each in await run] == expected
        assert (await run.verify()).holds


async def test_a_large_group_that_was_answered_is_not_grouped_and_asked_again() -> None:
    handler = Parts().run(parts=300, groups=1)
    (grouped, asked) = await suspended(handler, 1)
    await handler.send_event(HumanResponseEvent(kind=0))
    assert [list(each) for each in await handler] == [[0, 300]]
    answered = await anext(handler.history(after=asked.seq))

    fork = await handler.fork(answered)

    assert [list(each) for each in await fork] == [[0, 300]]
    assert grouped.outcome not in [point.outcome async for point in fork.history(kinds=["commit"])]


class Chosen(Event):
    pass


class Race(Workflow):
    """Takes the first of three answers and cancels the other branches; then a human confirms."""

    @step
    async def begin(self, ev: StartEvent) -> list[Part]:
        return [Part(number=number, kind=0) for number in range(3)]

    @step
    async def ask(self, ctx: Context[Any], ev: Part) -> Made:
        await ctx.wait_for_event(HumanResponseEvent, requirements={"kind": ev.number})
        return Made(kind=ev.number)

    @step
    async def choose(self, evs: Annotated[list[Made], Collect(Take(1), cancel_rest=True)]) -> Chosen:
        return Chosen()

    @step
    async def confirm(self, ctx: Context[Any], ev: Chosen) -> StopEvent:
        await ctx.wait_for_event(HumanResponseEvent, requirements={"kind": 3})
        return StopEvent()


async def until_waiting(handler: umbel.WorkflowHandler, steps: list[str]) -> None:
    """Wait until exactly these steps of the run wait for an event."""

    def waits() -> bool:
        waiters = handler.at(handler.history().listed()[-1]).work().waiters
        return [saved.waiter.step for saved in waiters] == steps

    await asyncio.to_thread(eventually, waits, f"{steps} wait")


async def test_a_fan_out_that_was_open_at_the_point_still_cancels_its_other_branches() -> None:
    handler = Race().run()
    await until_waiting(handler, ["ask"] * 3)
    point = [point async for point in handler.history()][-1]

    fork = await handler.fork(point)
    continued = Race().run(ctx=Context.from_dict(Race(), (await handler.at(point)).to_dict()))

    for run in (handler, fork, continued):
        await run.send_event(HumanResponseEvent(kind=1))
        await until_waiting(run, ["confirm"])
        await run.send_event(HumanResponseEvent(kind=3))
        await run
