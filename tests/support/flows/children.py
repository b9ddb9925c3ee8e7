"""Workflows that others run as their children."""

from __future__ import annotations

from support.eventually import eventually_async
from umbel import Context, HumanResponseEvent, StartEvent, StopEvent, Workflow, attach, step
from umbel.errors import RunNotFound


class Waits(Workflow):
    """Waits for an answer and returns it."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)


async def until(run_id: str, status: str = "running") -> None:
    """Wait until the run with this id is running or has another given status."""

    def is_so() -> bool:
        try:
            return attach(run_id).status() == status
        except RunNotFound:
            return False

    await eventually_async(is_so, f"run {run_id} is {status}")
