"""Workflows that others run as their children."""

from __future__ import annotations

from umbel import (
    Context,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)


class Waits(Workflow):
    """Waits for an answer and gives it."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)
