"""The workflow of `sessions.py`: a question in a session, and its answer from the session's state."""

from __future__ import annotations

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Question(StartEvent):
    """Asked in a session."""

    number: int


class Noted(Event):
    """Between two steps, which other workers may execute."""


class Turn(Workflow):
    """Notes the question in the state, and answers what is noted there."""

    @step
    async def note(self, ctx: Context, question: Question) -> Noted:
        """Write."""
        await ctx.store.set("asked", question.number)
        return Noted()

    @step
    async def answer(self, ctx: Context, noted: Noted) -> StopEvent:
        """Read."""
        return StopEvent(result=await ctx.store.get("asked"))
