"""Workflows whose runs span several shards: child runs, and runs that wait for another run of their workflow."""

from __future__ import annotations

from support.flows.everyday import hold_on_loop
from umbel import Context, StartEvent, StopEvent, Workflow, step


class Leaf(Workflow):
    """A child run."""

    @step
    async def double(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=2 * ev.n)


class Tree(Workflow):
    """Adds up the results of its child runs."""

    @step
    async def sum(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=sum(await ctx.run_all([Leaf.start(n=n) for n in range(ev.n)])))


class InTurn(Workflow):
    """One of its runs executes at a time; each ends when the test opens its gate."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        await hold_on_loop(ev.gate)
        return StopEvent(result=ev.n)
