"""A workflow that passes a secret through everything that carries values."""

from __future__ import annotations

from umbel import Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.retry_policy import stop_after_attempt, wait_fixed

SECRET = "value-nobody-else-may-see"


class Piece(Event):
    secret: str


class Kept(Event):
    secret: str


class Answer(HumanResponseEvent):
    secret: str


class Leaky(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> list[Piece]:
        await ctx.store.set("secret", ev.secret)
        ctx.write_event_to_stream(Event(text=ev.secret))
        answer = await ctx.wait_for_event(Answer)
        return [Piece(secret=answer.secret), Piece(secret=answer.secret)]

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    async def fail_once(self, ctx: Context, ev: Piece) -> Kept:
        if ctx.attempt == 1:
            raise ValueError("of the first attempt")
        return Kept(secret=ev.secret)

    @step
    def gather(self, evs: list[Kept]) -> StopEvent:
        return StopEvent(result=evs[0].secret)


class Plain(Workflow):
    @step
    def do(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")
