"""The workflows that the server processes of these tests serve."""

from __future__ import annotations

import asyncio

from support.flows.everyday import effect, hold_on_loop
from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Tick(Event):
    n: int
    text: str = ""


class Question(InputRequiredEvent):
    text: str


class Reply(HumanResponseEvent):
    text: str


class Ticking(Workflow):
    """Publishes half of its events before its gate and half after it."""

    @step
    async def tick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("tick", ctx)
        for n in range(ev.many):
            if n == ev.many // 2:
                await hold_on_loop(ev.get("gate", "half"))
            ctx.write_event_to_stream(Tick(n=n, text="." * ev.get("size", 0)))
            await asyncio.sleep(ev.get("pause", 0.0))
        return StopEvent(result=ev.many)


class Counting(Workflow):
    """Counts the runs of its handler."""

    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state["n"] = counted = state.get("n", 0) + 1
        if ev.get("gate"):
            await hold_on_loop(ev.gate)
        return StopEvent(result=counted)


class Held(Workflow):
    """Publishes, then waits at its gate."""

    @step
    async def hold(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Tick(n=0))
        await hold_on_loop(ev.gate)
        return StopEvent()


class Asking(Workflow):
    """A human in the loop."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        reply = await ctx.wait_for_event(Reply, waiter_event=Question(text="Well?"))
        return StopEvent(result=reply.text)
