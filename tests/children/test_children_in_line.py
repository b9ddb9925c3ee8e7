"""A step that waits for a slot while its child run has failed, been retried or been cancelled."""

from __future__ import annotations

import asyncio

import pytest

from support.eventually import eventually_async
from support.flows.children import until
from support.store.blocking import store_of
from umbel import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from umbel.plugins import BasicRuntime

pytestmark = pytest.mark.usefixtures("runtime")


class Part(Event):
    n: int


class Done(Event):
    value: int


class OneSlot(Workflow):
    """Its first part runs a child run; its second part holds the only slot until the gate opens."""

    def __init__(self, child: type[Workflow], leave: asyncio.Event) -> None:
        super().__init__()
        self.child, self.leave = child, leave

    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(n=0), Part(n=1)]

    @step(num_workers=1)
    async def work(self, ctx: Context, ev: Part) -> Done:
        if ev.n == 0:
            return Done(value=await ctx.run(self.child(), id=f"{ctx.run_id}-child"))
        await self.leave.wait()
        return Done(value=1)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sum(ev.value for ev in evs))


async def retried_in_line(runtime: BasicRuntime, child: type[Workflow], leave: asyncio.Event) -> WorkflowHandler:
    """Return a run that was retried while a step with a failed child was waiting for a slot."""
    handler = OneSlot(child, leave).run()
    in_line = runtime.store.locate(handler.run_id)["queue"]
    client = store_of(runtime).client
    await until(f"{handler.run_id}-child", "failed")
    await eventually_async(lambda: client.hlen(in_line), "the child's failure waits for the slot")
    await handler.cancel()
    await runtime.portal.run(runtime.engine.retry(handler.run_id))
    return handler


async def test_a_retry_resumes_the_failed_child_of_a_step_that_waited_for_a_slot(runtime: BasicRuntime) -> None:
    tries: list[int] = []
    leave = asyncio.Event()

    class Second(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            tries.append(1)
            if len(tries) == 1:
                raise OSError("the first time")
            return StopEvent(result=7)

    handler = await retried_in_line(runtime, Second, leave)
    leave.set()
    assert await handler == 8
    assert len(tries) == 2


async def test_cancelling_a_step_that_waits_for_a_slot_ends_its_child(runtime: BasicRuntime) -> None:
    tries: list[int] = []
    leave = asyncio.Event()

    class Second(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            tries.append(1)
            if len(tries) == 1:
                raise OSError("the first time")
            return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)

    handler = await retried_in_line(runtime, Second, leave)
    child = f"{handler.run_id}-child"
    await until(child)
    assert await handler.cancel_step("work", where={"n": 0}) == 1
    await until(child, "cancelled")
    leave.set()
    assert await handler == 1
