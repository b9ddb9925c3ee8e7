"""The workflow of `waiting.py`: one step that asks a human."""

from __future__ import annotations

from umbel import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Case(StartEvent):
    """What has to be decided."""

    number: int


class Question(InputRequiredEvent):
    """Put to a human."""

    text: str


class Verdict(HumanResponseEvent):
    """What the human says."""

    points: int


class Ask(Workflow):
    """Waits for as long as it takes."""

    @step
    async def ask(self, ctx: Context, case: Case) -> StopEvent:
        """Ask, wait, say both numbers."""
        question = Question(text=f"How many points for case {case.number}?")
        verdict = await ctx.wait_for_event(Verdict, waiter_event=question, timeout=None)
        return StopEvent(result=[case.number, verdict.points])
