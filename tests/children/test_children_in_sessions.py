"""Child runs in a session: they wait for their turn there."""

from __future__ import annotations

import pytest

import umbel
from support.eventually import eventually_async
from support.flows.children import Waits
from umbel import (
    Context,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    step,
)
from umbel.errors import ChildFailed, SessionClosed

pytestmark = pytest.mark.usefixtures("runtime")


class Asked(Workflow):
    """Counts its calls in its session, and returns what it was asked for."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.asked = [*state.get("asked", []), ev.n]
        return StopEvent(result=ev.n)


async def test_a_child_in_a_session_waits_for_its_turn_there() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = await ctx.run(Asked(), session="shared by children", n=1)
            return StopEvent(result=[first, await ctx.run(Asked(), session="shared by children", n=2)])

    before = Waits().run(session="shared by children")
    handler = Parent().run()
    session = umbel.session("shared by children")
    await eventually_async(session.waiting, "the child waits")
    assert [waiting.status() for waiting in session.waiting()] == ["queued"]
    await before.send_event(HumanResponseEvent(response="yours"))
    assert await handler == [1, 2]
    assert (await session.state()).asked == [1, 2]
    assert len(session.runs()) == 3


async def test_a_cancelled_parent_takes_its_child_out_of_the_line() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Asked(), session="left by a child", n=1))

    before = Waits().run(session="left by a child")
    handler = Parent().run()
    session = umbel.session("left by a child")
    waiting = (await eventually_async(session.waiting, "the child waits"))[0]
    await handler.cancel_run()
    await eventually_async(lambda: waiting.status() == "cancelled", "the child is cancelled")
    assert session.waiting() == []
    await before.cancel_run()


async def test_a_child_that_its_session_does_not_take_fails_with_the_reason() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Asked(), session="closed for children", n=1))

    await umbel.session("closed for children").close()
    with pytest.raises(ChildFailed, match="is closed") as raised:
        await Parent().run()
    assert isinstance(raised.value.error, SessionClosed)


async def test_a_child_in_a_session_that_waits_for_it_is_refused() -> None:
    class Middle(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.run(Asked(), session="outer", n=1))

    class Outer(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            inner = {"session": ev.inner} if ev.inner else {}
            return StopEvent(result=await ctx.run(Middle(), **inner))

    with pytest.raises(WorkflowRuntimeError, match="neither would ever end"):
        await Middle().run(session="outer")
    for inner in ("inner", None):
        with pytest.raises(ChildFailed, match="neither would ever end"):
            await Outer().run(session="outer", inner=inner)
