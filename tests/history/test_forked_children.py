"""Forks of runs that wait for child runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import umbel
from support.eventually import eventually, eventually_async
from umbel import Context, HumanResponseEvent, StartEvent, StopEvent, Workflow, step
from umbel.errors import ChildFailed, StoreUnavailable
from umbel.orchestration.history.forks import going_on
from umbel.orchestration.history.forks.edits import Edits
from umbel.orchestration.history.points import RunAt
from umbel.orchestration.model.envelope import Envelope
from umbel.tasks.events.codec import encode_event

pytestmark = pytest.mark.usefixtures("runtime")

STARTED: Counter[str] = Counter()


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


async def waiting(handler: umbel.WorkflowHandler, count: int) -> list[umbel.WorkflowHandler]:
    """Wait until `count` of its children wait for their answers, and return them."""

    def asks(child: umbel.WorkflowHandler) -> bool:
        begun = [point.kind for point in child.history()]
        outcomes = [point.outcome for point in child.history(kinds=["commit"])]
        return child.status() == "running" and ("restore" in begun or outcomes == ["suspended"])

    def enough() -> list[umbel.WorkflowHandler] | None:
        found = [child for child in handler.children() if asks(child)]  # type: ignore[union-attr, attr-defined]
        return found if len(found) == count else None

    found: list[umbel.WorkflowHandler] = await asyncio.to_thread(eventually, enough, f"{count} children wait")
    return found


async def awaiting(handler: umbel.WorkflowHandler) -> umbel.Point:
    """Return the point at which its step began to wait."""
    outcomes = [point async for point in handler.history(kinds=["commit"]) if point.outcome == "awaiting"]
    return outcomes[0]


async def answer(children: list[umbel.WorkflowHandler], text: str) -> None:
    for child in children:
        await asyncio.to_thread(child.send_event, HumanResponseEvent(response=text))
        await child


async def test_a_fork_takes_the_ends_of_its_origins_children_and_waits_for_those_that_go_on() -> None:
    handler = Parent().run(names=["a", "b", "c"])
    first = await waiting(handler, 2)
    point = await awaiting(handler)
    await answer(first[:1], "early")
    later = await waiting(handler, 2)

    fork = await handler.fork(point)
    await answer(later, "late")

    assert sorted(await handler) == sorted(await fork)
    assert len([text for text in await fork if text.endswith("early")]) == 1
    assert (await fork.verify()).holds
    assert (await handler.verify()).holds


async def test_children_of_a_fork_that_ends_go_on_for_its_origin() -> None:
    handler = Parent().run(names=["a"])
    children = await waiting(handler, 1)

    fork = await handler.fork(await awaiting(handler))
    await fork.cancel_run()
    await answer(children, "still")

    assert await handler == ["a still"]


async def test_children_are_forked_as_they_were_at_the_point() -> None:
    handler = Parent().run(names=["a", "b", "c"])
    first = await waiting(handler, 2)
    await handler.ctx.store.set("both", "wait")
    point = await anext(handler.history(kinds=["state"]))
    # Children are forked at the instant of the point, which is precise to a millisecond.
    await eventually_async(lambda: datetime.now(UTC) - point.at > timedelta(milliseconds=1), "it is later")
    await answer(first, "of the first run")
    await answer(await waiting(handler, 1), "of the first run")
    await handler

    fork = await handler.fork(point, children="fork")
    own = await waiting(fork, 2)
    assert {child.run_id for child in own}.isdisjoint(child.run_id for child in first)
    assert [STARTED[child.run_id] for child in own] == [0, 0]  # they wait, as at the point
    await answer(own, "of the fork")
    await answer(await waiting(fork, 1), "of the fork")

    assert await fork == [f"{name} of the fork" for name in "abc"]
    assert await handler == [f"{name} of the first run" for name in "abc"]
    assert (await fork.verify()).holds


async def test_children_that_could_not_be_forked_start_again() -> None:
    handler = Parent().run(names=["a"])
    first = await waiting(handler, 1)
    await handler.ctx.store.set("it", "waits")
    point = await handler.at((await anext(handler.history(kinds=["state"]))).seq)
    plan, settings = await handler._engine.store.plan_of(handler.run_id), handler._engine.store.settings

    def announce(at: RunAt) -> Envelope:
        """Fail between the fork of the run and the forks of its children."""
        if at.run_id != handler.run_id:
            raise StoreUnavailable("prevented", where="")
        return encode_event(umbel.RunForked(run_id=at.run_id, seq=at.seq), settings)

    await going_on.fork(
        handler._engine,
        point,
        "with-prevented-children",
        plan,
        Edits(),
        handler._limits,
        announce=announce,
        keeping=going_on.Keeping(children=False),
        options={},
        timeout_seconds=None,
    )
    fork = umbel.attach("with-prevented-children")
    await answer(await waiting(fork, 1), "after all")

    assert await fork == ["a after all"]
    await answer(first, "as before")
    assert await handler == ["a as before"]


class Chosen(Workflow):
    """Runs a child with an id that the caller has chosen."""

    @step
    async def go(self, ctx: Context[Any], ev: Begin) -> StopEvent:
        return StopEvent(result=await ctx.run(Child(), Asks(name="mine"), id=ev.names[0]))


@pytest.mark.parametrize("children", ["keep", "fork"])
async def test_another_run_with_the_childs_id_is_not_used_as_the_child(children: Any) -> None:
    other = Child().run(run_id=f"taken-{children}", name="a secret")
    await eventually_async(lambda: STARTED[other.run_id], "it has begun")
    handler = Chosen().run(names=[other.run_id])
    with pytest.raises(ChildFailed, match="already exists"):
        await handler

    fork = await handler.fork(await awaiting(handler), children=children)

    if children == "keep":  # the recorded end
        with pytest.raises(ChildFailed, match="already exists"):
            await fork
    else:
        await answer(await waiting(fork, 1), "yes")
        assert await fork == "mine yes"
    await other.cancel()


class Falters(Workflow):
    @step
    async def work(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id="how")
        if await ctx.store.get("broken", default=True):
            raise ValueError("broken")
        return StopEvent(result=answer.response)


class Careful(Workflow):
    @step
    async def go(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        return StopEvent(result=await ctx.run(Falters(), Asks(name=ev.name)))


async def test_a_fork_that_is_retried_takes_no_child_of_its_origin_up_again_but_takes_what_has_become_of_it() -> None:
    handler = Careful().run(name="a")
    [child] = await waiting(handler, 1)
    fork = await handler.fork(await awaiting(handler))
    await asyncio.to_thread(child.send_event, HumanResponseEvent(response="well"))
    for run in (handler, fork):
        with pytest.raises(ChildFailed, match="broken"):
            await run

    await asyncio.to_thread(umbel.retry_runs, [fork.run_id])
    with pytest.raises(ChildFailed, match=f"{child.run_id}' failed in step 'work'.*broken"):
        await umbel.attach(fork.run_id)
    assert child.status() == "failed"
    await child.ctx.store.set("broken", False)
    await asyncio.to_thread(umbel.retry_runs, [handler.run_id])
    assert await umbel.attach(handler.run_id) == "well"
    await asyncio.to_thread(umbel.retry_runs, [fork.run_id])
    fork = umbel.attach(fork.run_id)

    assert await fork == "well"
    assert (await fork.verify()).holds


class Hesitant(Workflow):
    """Its step does not wait for the child before the test allows it."""

    @step
    async def go(self, ctx: Context[Any], ev: Asks) -> StopEvent:
        ENTERED[ctx.run_id] += 1
        while ctx.run_id in HELD:
            await asyncio.sleep(0.01)
        return StopEvent(result=await ctx.run(Falters(), Asks(name=ev.name)))


ENTERED: Counter[str] = Counter()
HELD: set[str] = set()


@pytest.mark.parametrize("first", ["the step waits", "the end is reported"])
async def test_a_fork_that_is_retried_starts_no_second_child_whatever_comes_first(first: str) -> None:
    handler = Hesitant().run(name="a")
    [child] = await waiting(handler, 1)
    fork = await handler.fork(await awaiting(handler))
    await asyncio.to_thread(child.send_event, HumanResponseEvent(response="well"))
    with pytest.raises(ChildFailed, match="broken"):
        await fork
    begun = ENTERED[fork.run_id]

    def is_reported_again() -> bool:
        return len(list(fork.history(kinds=["child"]))) == 2

    if first == "the end is reported":
        HELD.add(fork.run_id)
    try:
        await asyncio.to_thread(umbel.retry_runs, [fork.run_id])
        await eventually_async(lambda: ENTERED[fork.run_id] > begun, "its step is executed again")
        if first == "the end is reported":
            await asyncio.to_thread(eventually, is_reported_again, "the child's end is reported again")
    finally:
        HELD.discard(fork.run_id)
    fork = umbel.attach(fork.run_id)
    with pytest.raises(ChildFailed, match=f"{child.run_id}' failed in step 'work'.*broken"):
        await fork

    assert await asyncio.to_thread(lambda: [each.run_id for each in fork.children()]) == [child.run_id]  # type: ignore[union-attr]
    assert (await fork.verify()).holds


async def test_a_run_that_was_rewound_and_is_retried_starts_no_second_child() -> None:
    handler = Careful().run(name="a")
    [child] = await waiting(handler, 1)
    point = await awaiting(handler)
    await asyncio.to_thread(child.send_event, HumanResponseEvent(response="well"))
    with pytest.raises(ChildFailed, match="broken"):
        await handler
    await handler.rewind(point)
    with pytest.raises(ChildFailed, match="broken"):
        await umbel.attach(handler.run_id)

    await asyncio.to_thread(umbel.retry_runs, [handler.run_id])

    handler = umbel.attach(handler.run_id)
    with pytest.raises(ChildFailed, match=f"{child.run_id}' failed in step 'work'.*broken"):
        await handler
    assert await asyncio.to_thread(lambda: [each.run_id for each in handler.children()]) == [child.run_id]  # type: ignore[union-attr]
    assert (await handler.verify()).holds
