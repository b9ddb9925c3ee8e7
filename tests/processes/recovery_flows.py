"""Workflows whose processes die, to see how the others recover."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from process_flows import effect

from umbel import Context, StartEvent, StopEvent, Workflow, step


class LostOnce(Workflow):
    """An async step that never ends in its first attempt, and takes some seconds in any other."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("begun", ctx)
        await asyncio.sleep(600 if ctx.attempt == 1 else ev.seconds)
        effect("ended", ctx)
        return StopEvent(result=ctx.attempt)


class PlainLostOnce(Workflow):
    """The same for a plain step."""

    @step
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("begun", ctx)
        time.sleep(600 if ctx.attempt == 1 else ev.seconds)
        effect("ended", ctx)
        return StopEvent(result=ctx.attempt)


class Poison(Workflow):
    """Kills its process whenever it is executed, as soon as it is told to."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("dying", ctx)
        await asyncio.sleep(ev.seconds)
        os.kill(os.getpid(), signal.SIGKILL)
        return StopEvent()
