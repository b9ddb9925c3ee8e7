"""The workflow of the chat: each run is one turn, and the session keeps the conversation.

$ umbel worker examples/chat/conversation.py        # with the same UMBEL_REDIS_URL as the application next to this file
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
        # Once, at the end: an interrupted turn leaves nothing in the conversation. If its worker dies, another worker
        # generates the answer again.
        await ctx.store.set("conversation", [*conversation, {"said": said.text, "answer": " ".join(words)}])
        return StopEvent(result=" ".join(words))


async def model(conversation: list[dict[str, str]], text: str) -> AsyncIterator[str]:
    """Stands in for a language model: it slowly repeats its input."""
    for word in f"{len(conversation) + 1}. You said: {text} {'and so on ' * text.count('…')}".split():
        await asyncio.sleep(0.03)
        yield word


turn = Turn(timeout=120)
