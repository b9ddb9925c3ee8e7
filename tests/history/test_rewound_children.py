"""Rewinding runs with child runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import umbel
from support.eventually import eventually, eventually_async
from umbel import Context, HumanResponseEvent, StartEvent, StopEvent, Workflow, step
from umbel.errors import ChildFailed

pytestmark = pytest.mark.usefixtures("runtime")

STARTED: Counter[str] = Counter()
BROKEN = {"yes": True}


class Begin(StartEvent):
    names: list[str]


class Asks(StartEvent):
    name: str


class Child(Workflow):
    @step
    async def ask(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        STARTED[ctx.run_id] += 1
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id=ev.name)
        return StopEvent(result=f"{ev.name} {answer.response}")


class Parent(Workflow):
    @step
    async def go(self, ctx: Context[Any], ev: Begin) -> StopEvent:
        children = [Child.start(name=name) for name in ev.names]
        return StopEvent(result=await ctx.run_all(children, limit=2))


async def asking(handler: umbel.WorkflowHandler, count: int) -> list[umbel.WorkflowHandler]:
    """Wait until `count` of its children wait for their answers, and return them."""

    def asks(child: umbel.WorkflowHandler) -> bool:
        outcomes = [point.outcome for point in child.history(kinds=["commit"])]
        return child.status() == "running" and outcomes[-1:] == ["suspended"]

    def enough() -> list[umbel.WorkflowHandler] | None:
        found = [child for child in handler.children() if asks(child)]  # type: ignore[union-attr, attr-defined]
        return found if len(found) == count else None

    found: list[umbel.WorkflowHandler] = await asyncio.to_thread(eventually, enough, f"{count} children wait")
    return found


async def awaiting(handler: umbel.WorkflowHandler) -> umbel.Point:
    """Return the last point at which its step began to wait."""
    return [point async for point in handler.history(kinds=["commit"]) if point.outcome == "awaiting"][-1]


async def answer(children: list[umbel.WorkflowHandler], text: str) -> None:
    for child in children:
        await asyncio.to_thread(child.send_event, HumanResponseEvent(response=text))
        await child


async def all_hold(*handlers: umbel.WorkflowHandler) -> None:
    for handler in handlers:
        for each in (handler, *await handler.children()):
            verified = await each.verify()
            assert verified.holds, (each.run_id, *map(str, verified.differences))


async def ended(handlers: list[umbel.WorkflowHandler], status: str) -> None:
    await eventually_async(lambda: all(each.status() == status for each in handlers), f"all are {status}")


async def test_children_that_a_run_waited_for_are_kept_with_the_ends_that_they_have_had_since() -> None:
    handler = Parent().run(names=["a", "b", "c", "d"])
    first = await asking(handler, 2)
    point = await awaiting(handler)
    await answer(first[:1], "once")
    before = await asking(handler, 2)

    await handler.rewind(point, stop_running=True)
    kept = await asking(handler, 2)
    assert {child.run_id for child in kept} == {child.run_id for child in before}
    await answer(kept, "later")
    await answer(await asking(handler, 1), "later")

    assert sorted(text.split()[1] for text in await handler) == ["later", "later", "later", "once"]
    assert [STARTED[child.run_id] for child in await handler.children()] == [2, 2, 2, 2]
    await all_hold(handler)

    await handler.rewind(await awaiting(handler))  # all children have completed since
    assert sorted(text.split()[0] for text in await handler) == ["a", "b", "c", "d"]
    assert len(await handler.children()) == 4
    await all_hold(handler)


async def test_children_that_were_begun_after_the_point_are_cancelled_and_others_are_begun() -> None:
    handler = Parent().run(names=["a", "b", "c"])
    before = await asking(handler, 2)

    await handler.rewind(1, stop_running=True)
    await ended(before, "cancelled")
    await answer(await asking(handler, 2), "again")
    await answer(await asking(handler, 1), "again")

    assert sorted(await handler) == ["a again", "b again", "c again"]
    children = await handler.children()
    assert {child.run_id for child in before} < {child.run_id for child in children}
    assert len(children) == 5
    await all_hold(handler)


async def test_an_earlier_branch_has_its_children_again() -> None:
    handler = Parent().run(names=["a"])
    [child] = await asking(handler, 1)
    point = await awaiting(handler)
    await handler.rewind(1, stop_running=True)
    await ended([child], "cancelled")
    [other] = await asking(handler, 1)
    assert other.run_id != child.run_id

    await handler.rewind(point, stop_running=True)
    await ended([other], "cancelled")
    await answer([child], "after all")

    assert await handler == ["a after all"]
    await all_hold(handler)


class Fragile(Workflow):
    @step
    async def work(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        if BROKEN["yes"]:
            raise ValueError("broken")
        return StopEvent(result=ev.name)


class Careful(Workflow):
    @step
    async def go(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        return StopEvent(result=await ctx.run(Fragile(), Asks(name=ev.name)))


async def test_a_child_that_has_failed_since_is_taken_up_again() -> None:
    BROKEN["yes"] = True
    handler = Careful().run(name="a")
    with pytest.raises(ChildFailed):
        await handler
    [child] = await handler.children()
    BROKEN["yes"] = False

    await handler.rewind(await awaiting(handler))

    assert await handler == "a"
    assert [each.run_id for each in await handler.children()] == [child.run_id]
    await all_hold(handler)


async def test_a_child_that_failed_before_the_point_is_retried_after_rewinds() -> None:
    BROKEN["yes"] = True
    handler = Careful().run(name="a")
    with pytest.raises(ChildFailed):
        await handler
    [child] = await handler.children()
    [told] = [point async for point in handler.history(kinds=["child"])]
    await handler.rewind(1)  # at this point, the child belongs to none of its steps
    with pytest.raises(ChildFailed):
        await umbel.attach(handler.run_id)

    await handler.rewind(told)
    with pytest.raises(ChildFailed, match=child.run_id):
        await umbel.attach(handler.run_id)
    BROKEN["yes"] = False
    await asyncio.to_thread(umbel.retry_runs, [handler.run_id])

    assert await umbel.attach(handler.run_id) == "a"
    await all_hold(handler)
    await handler.rewind(told)  # the child has completed since
    assert await umbel.attach(handler.run_id) == "a"
    await all_hold(handler)


class Leaving(Workflow):
    @step
    async def go(self, ctx: Context[Any], ev: Begin) -> StopEvent:
        left, chosen = ev.names
        first = await ctx.run(Child(), Asks(name=left), on_parent_end="leave")
        return StopEvent(result=[first, await ctx.run(Child(), Asks(name="chosen"), id=chosen)])


async def test_a_child_that_may_stay_goes_on_and_one_with_a_chosen_id_is_the_same_again() -> None:
    handler = Leaving().run(names=["left", "chosen-of-a-rewind"])
    await answer(await asking(handler, 1), "first")
    [chosen] = await asking(handler, 1)

    await handler.rewind(1, stop_running=True)
    [left] = [child for child in await asking(handler, 1) if child.run_id != chosen.run_id]
    await handler.rewind(1, stop_running=True)
    assert left.status() == "running"
    await answer([left], "for itself")
    await answer(await asking(handler, 1), "second")
    [again] = await asking(handler, 1)
    assert again.run_id == chosen.run_id
    await answer([again], "it is")

    assert await handler == ["left second", "chosen it is"]
    await all_hold(handler)


class Staying(Workflow):
    @step
    async def wait(self, ctx: Context[Any], ev: Asks) -> None:
        await ctx.run(Child(), Asks(name=ev.name), on_parent_end="wait")

    @step
    async def end(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id="end")
        return StopEvent(result=answer.response)


async def test_a_run_that_waits_for_a_staying_child_waits_no_more_once_it_was_put_back() -> None:
    handler = Staying().run(name="a")
    [child] = await asking(handler, 1)
    handler.send_event(HumanResponseEvent(response="early"))
    await eventually_async(
        lambda: [p for p in handler.history(step="end") if p.outcome == "returned"], "its end waits for the child"
    )

    await handler.rewind(await awaiting(handler), stop_running=True)
    await answer([child], "stays")
    handler.send_event(HumanResponseEvent(response="late"))

    assert await handler == "late"
    await all_hold(handler)
