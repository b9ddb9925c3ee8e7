"""Workflows that wait: one step that asks a human, for `waiting.py`; a fan-out of waits, for `measure_waits.py`."""

from __future__ import annotations

from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Case(StartEvent):
    """A case to decide."""

    number: int


class Question(InputRequiredEvent):
    """A question to a human."""

    text: str


class Verdict(HumanResponseEvent):
    """The human's answer."""

    points: int


class Ask(Workflow):
    """Waits without a timeout."""

    @step
    async def ask(self, ctx: Context, case: Case) -> StopEvent:
        """Ask, wait, return both numbers."""
        question = Question(text=f"How many points for case {case.number}?")
        verdict = await ctx.wait_for_event(Verdict, waiter_event=question, timeout=None)
        return StopEvent(result=[case.number, verdict.points])


class Spread(StartEvent):
    """The number of steps that wait at once."""

    width: int


class Numbered(Event):
    """The input of one of these steps."""

    number: int


class Reply(HumanResponseEvent):
    """The answer to one of them, from outside."""

    number: int


class Answered(Event):
    """The result of one of them."""

    number: int


class AskMany(Workflow):
    """A fan-out whose steps wait, each for an answer of its own."""

    @step
    async def spread(self, start: Spread) -> list[Numbered]:
        """Fan out."""
        return [Numbered(number=number) for number in range(start.width)]

    @step(num_workers=100_000)
    async def wait(self, ctx: Context, numbered: Numbered) -> Answered:
        """Wait for the answer with the same number."""
        number = numbered.number
        reply = await ctx.wait_for_event(Reply, requirements={"number": number}, timeout=None)
        return Answered(number=reply.number)

    @step
    async def join(self, answered: list[Answered]) -> StopEvent:
        """Count the answers."""
        return StopEvent(result=len({each.number for each in answered}))
