"""Workflows whose runs share a session: each question gets its own answer, and the state holds the conversation."""

from __future__ import annotations

from support.flows.everyday import effect, hold_on_loop, is_open
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Question(StartEvent):
    """Asked in a session."""

    text: str
    gate: str = ""


class Looked(Event):
    """Passed between the two steps."""

    text: str
    gate: str


class Chat(Workflow):
    """Answers a question in two steps, and records both in the session's state.

    A repeated attempt finds the state writes of the killed one: outcomes are recorded once, but state writes stay.
    """

    @step
    async def look(self, ev: Question, ctx: Context) -> Looked:
        """Record the question."""
        effect("asked", ctx, text=ev.text)
        async with ctx.store.edit_state() as state:
            asked = state.get("asked", [])
            if not asked or asked[-1] != ev.text:
                state.asked = [*asked, ev.text]
        return Looked(text=ev.text, gate=ev.gate)

    @step
    async def answer(self, ev: Looked, ctx: Context) -> StopEvent:
        """Answer the last question of this session."""
        effect("answering", ctx, text=ev.text)
        if ev.gate and not is_open(ev.gate):
            await hold_on_loop(ev.gate)
        asked = await ctx.store.get("asked")
        return StopEvent(result=f"answer to {asked[-1]}")
