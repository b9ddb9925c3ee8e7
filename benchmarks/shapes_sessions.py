"""The workflow of `sessions.py`: a question in a session, and an answer from the session's state."""

from __future__ import annotations

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Question(StartEvent):
    """A question in a session."""

    number: int


class Noted(Event):
    """Passes from the first step to the second, which another worker may execute."""


class Turn(Workflow):
    """Stores the question in the state, and answers with what is stored there."""

    @step
    async def note(self, ctx: Context, question: Question) -> Noted:
        """Write the state."""
        await ctx.store.set("asked", question.number)
        return Noted()

    @step
    async def answer(self, ctx: Context, noted: Noted) -> StopEvent:
        """Read the state."""
        return StopEvent(result=await ctx.store.get("asked"))
