"""Steps with values that are too large or invalid for Redis."""

from __future__ import annotations

import threading
from typing import Any

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class Anything(Event):
    value: Any = None


class InEvent(Workflow):
    @step
    async def go(self, ev: StartEvent) -> Anything:
        return Anything(value={"held": [threading.Lock()]})

    @step
    async def end(self, ev: Anything) -> StopEvent:
        return StopEvent()


class InFanOut(Workflow):
    @step
    async def go(self, ev: StartEvent) -> list[Anything]:
        return [Anything(value=1), Anything(value=threading.Lock())]

    @step
    async def end(self, evs: list[Anything]) -> StopEvent:
        return StopEvent()


class InResult(Workflow):
    @step
    def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=threading.Lock())


class InStore(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("handle", threading.Lock())
        return StopEvent()


class Sent(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> Anything | StopEvent:
        ctx.send_event(Anything(value=threading.Lock()))
        return StopEvent()

    @step
    async def end(self, ev: Anything) -> StopEvent:
        return StopEvent()


class Published(Workflow):
    @step
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Anything(value=threading.Lock()))
        return StopEvent()


class Sizeable(StartEvent):
    text: str


class Large(Workflow):
    """Returns the length of its input."""

    @step
    async def go(self, ev: Sizeable) -> StopEvent:
        return StopEvent(result=len(ev.text))


class Growing(Workflow):
    """Creates something large in one of three places."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> Anything | StopEvent:
        text = "x" * ev.size
        if ev.place == "store":
            await ctx.store.set("text", text)
            return StopEvent(result=len(await ctx.store.get("text")))
        return Anything(value=text) if ev.place == "event" else StopEvent(result=text)

    @step
    async def end(self, ev: Anything) -> StopEvent:
        return StopEvent(result=len(ev.value))


class Ordered(StartEvent):
    item: str
    amount: int


class Reserved(Event):
    amount: int


class Strict(Workflow):
    @step
    async def go(self, ev: Ordered) -> Reserved:
        return Reserved()  # type: ignore[call-arg]

    @step
    async def end(self, ev: Reserved) -> StopEvent:
        return StopEvent()
