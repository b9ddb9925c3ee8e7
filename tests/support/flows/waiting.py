"""Workflows that wait for a human, for real worker processes; see `support.flows.everyday`."""

from __future__ import annotations

from support.flows.everyday import Number, effect
from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Question(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int
    text: str


class Answered(Event):
    n: int


class Ask(Workflow):
    """Asks, and returns its start number with the answer."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("asked", ctx)
        answer = await ctx.wait_for_event(Answer, waiter_event=Question(n=ev.n), timeout=None)
        effect("resumed", ctx)
        return StopEvent(result=[ev.n, answer.text])


class AskInBranches(Workflow):
    """Many branches that ask, although only one may execute at a time."""

    @step
    async def spread(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(ev.n)]

    @step(num_workers=1)
    async def ask(self, ctx: Context, ev: Number) -> Answered:
        effect("asked", ctx)
        answer = await ctx.wait_for_event(Answer, waiter_event=Question(n=ev.n), requirements={"n": ev.n}, timeout=None)
        effect("resumed", ctx)
        return Answered(n=answer.n)

    @step
    async def gather(self, evs: list[Answered]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])


class AskTwice(Workflow):
    """Two consecutive questions that the same answers match."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        first = await ctx.wait_for_event(Answer, waiter_event=Question(n=1), timeout=None)
        second = await ctx.wait_for_event(Answer, waiter_event=Question(n=2), timeout=None)
        return StopEvent(result=[first.text, second.text])


class AskBriefly(Workflow):
    """Gives up after `seconds`."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(Answer, timeout=ev.seconds)
        except TimeoutError:
            effect("gave up", ctx)
            return StopEvent(result="nobody answered")
        return StopEvent(result="somebody answered")


class AskNobody(Workflow):
    """Ends without asking."""

    @step
    async def end(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.n)
