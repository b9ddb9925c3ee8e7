"""The streaming example, with steps that end only after the reader has confirmed the events they wrote."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from streaming import Draft, Outline, Poet

from umbel import Context, Event, StartEvent, StopEvent, step


class Written(Event):
    """The last event of a step."""

    step: str


class TimedPoet(Poet):
    """Each step does what the example does, waits for its reader, and then records when it ended."""

    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Outline:
        await ctx.store.set("folder", ev.folder)
        outline = await super().plan(ctx, ev)
        await confirmed(ctx, "plan")
        return outline

    @step
    async def write(self, ctx: Context, ev: Outline) -> Draft:
        draft = await super().write(ctx, ev)
        await confirmed(ctx, "write")
        return draft

    @step
    async def polish(self, ctx: Context, ev: Draft) -> StopEvent:
        stop = await super().polish(ctx, ev)
        await confirmed(ctx, "polish")
        return stop


async def confirmed(ctx: Context, name: str) -> None:
    """Wait until the reader confirms this step's last event; it cannot if events arrive only when the step ends."""
    ctx.write_event_to_stream(Written(step=name))
    confirmation = Path(await ctx.store.get("folder"), name)
    async with asyncio.timeout(30):
        while not confirmation.exists():
            await asyncio.sleep(0.01)
    await ctx.store.set(f"{name}_ended_at", time.time())
