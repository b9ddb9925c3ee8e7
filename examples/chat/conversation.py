"""The workflow of the chat: one run is one turn, and the session keeps the conversation.

$ umbel worker examples/chat/conversation.py        # with UMBEL_REDIS_URL, as the application beside this file has it
"""

import asyncio
from collections.abc import AsyncIterator

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Said(StartEvent):
    text: str


class Token(Event):
    text: str


class Turn(Workflow):
    @step
    async def answer(self, ctx: Context, said: Said) -> StopEvent:
        await ctx.store.set("said", said.text)
        conversation = await ctx.store.get("conversation", default=[])
        words = []
        async for word in model(conversation, said.text):
            ctx.write_event_to_stream(Token(text=word))
            words.append(word)
        # Once, at the end: a turn that is interrupted has no part in the conversation, and one whose worker dies
        # is given anew by another one.
        await ctx.store.set("conversation", [*conversation, {"said": said.text, "answer": " ".join(words)}])
        return StopEvent(result=" ".join(words))


async def model(conversation: list[dict[str, str]], text: str) -> AsyncIterator[str]:
    """A language model would be asked here; this one answers slowly with what it was told."""
    for word in f"{len(conversation) + 1}. You said: {text} {'and so on ' * text.count('…')}".split():
        await asyncio.sleep(0.03)
        yield word


turn = Turn(timeout=120)
