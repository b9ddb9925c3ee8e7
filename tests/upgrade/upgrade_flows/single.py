"""Runs of one step after the other: in queues, held, waiting, delayed, failed, and ended."""

from __future__ import annotations

import asyncio
import os
import signal

from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    retry_policy,
    step,
)
from umbel.retry_policy import stop_after_attempt, wait_fixed

#: Set in the environment of the old release's worker.
HOLD = "HOLD_STEPS"


async def held() -> None:
    """In the old worker: wait until it is killed."""
    while os.environ.get(HOLD):
        await asyncio.sleep(0.05)


def breaks(what: str) -> None:
    """In the old worker: fail."""
    if os.environ.get(HOLD):
        raise Broken(what)


class Broken(Exception):
    """What a step of a user raises."""


class Number(Event):
    n: int


class Squared(Event):
    n: int


class Letter(Event):
    text: str


class Progress(Event):
    text: str


class Answer(HumanResponseEvent):
    number: int
    text: str


class Chain(Workflow):
    """Held in its second step, which a worker has claimed."""

    @step
    async def first(self, ev: StartEvent) -> Number:
        return Number(n=ev.n)

    @step
    async def second(self, ctx: Context, ev: Number) -> Squared:
        await held()
        return Squared(n=ev.n * ev.n)

    @step
    async def third(self, ev: Squared) -> StopEvent:
        return StopEvent(result=ev.n)


class Queued(Workflow):
    """Its second step is in a queue that the old worker does not consume: dispatched and unclaimed."""

    @step
    async def first(self, ev: StartEvent) -> Number:
        return Number(n=ev.n)

    @step(queue="later")
    def second(self, ctx: Context, ev: Number) -> StopEvent:
        return StopEvent(result=[ev.n, ctx.attempt])


class Asks(Workflow):
    """Waits for an answer: without a time limit, with a long one, or with one that ends soon."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            answer = await ctx.wait_for_event(
                Answer,
                waiter_event=InputRequiredEvent(prompt="Which?"),
                requirements={"number": ev.number},
                timeout=ev.seconds,
            )
        except TimeoutError:
            return StopEvent(result="nobody answered")
        return StopEvent(result=answer.text)


class AnsweredEarly(Workflow):
    """Its answer is in the inbox before it asks."""

    @step
    async def prepare(self, ev: StartEvent) -> Number:
        await held()
        return Number(n=1)

    @step
    async def ask(self, ctx: Context, ev: Number) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, timeout=None)
        return StopEvent(result=answer.text)


class Delayed(Workflow):
    """Between its first attempt and its second."""

    @step(timeout=0.2, retry_policy=retry_policy(wait=wait_fixed(6), stop=stop_after_attempt(3)))
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.how == "breaks":
            breaks("the first attempt")
        await held()
        info = ctx.retry_info()
        return StopEvent(result=[ctx.attempt, type(info.last_exception).__name__])


class Fails(Workflow):
    """Has failed in its second step, and is retried after the upgrade."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Number:
        await ctx.store.set("firsts", await ctx.store.get("firsts", default=0) + 1)
        return Number(n=1)

    @step
    async def second(self, ctx: Context, ev: Number) -> StopEvent:
        breaks("no such colour")
        return StopEvent(result=f"{await ctx.store.get('firsts')} first, attempt {ctx.attempt}")


class FailsSlowly(Workflow):
    """Has failed with an exception of umbel's own: the step's time limit, or a result that cannot be stored."""

    @step(timeout=0.2)
    async def go(self, ev: StartEvent) -> StopEvent:
        if os.environ.get(HOLD) and ev.how == "unserializable":
            return StopEvent(result=object())
        await held()
        return StopEvent(result=ev.how)


class Kills(Workflow):
    """Has killed its workers, and failed as `WorkerLost`."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        if os.environ.get(HOLD):
            os.kill(os.getpid(), signal.SIGKILL)
        return StopEvent(result="harmless now")


class Idles(Workflow):
    """Was cancelled, or had its time limit."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        await held()
        return StopEvent(result="idled")


class Report(StopEvent):
    pages: int
    by: str


class Streams(Workflow):
    """Completed: its stream and its result are read again."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> Report:
        for text in ("one", "two", "three"):
            ctx.write_event_to_stream(Progress(text=text))
        return Report(pages=3, by="Ada")


class Recovers(Workflow):
    """A failure was caught once; the second try is held."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    async def go(self, ev: Number) -> StopEvent:
        if ev.n == 1:
            raise Broken("mirror 1")
        await held()
        return StopEvent(result=f"mirror {ev.n}")

    @catch_error(for_steps=["go"])
    async def again(self, ev: StepFailedEvent) -> Number:
        return Number(n=2)


if os.environ.get(HOLD) == "worker":

    class Parcel(Workflow):
        """As the old worker has it: without the step that the client's class has."""

        @step
        async def pick(self, ev: StartEvent) -> Number:
            return Number(n=1)

        @step
        async def weigh(self, ev: Number) -> StopEvent:
            return StopEvent(result="weighed")

else:

    class Parcel(Workflow):  # type: ignore[no-redef]
        """Parked: the old worker lacked its second step."""

        @step
        async def pick(self, ev: StartEvent) -> Number:
            return Number(n=1)

        @step
        async def pack(self, ev: Number) -> StopEvent:
            return StopEvent(result="packed")


class Limited(Workflow):
    """One run of it at a time: one is held, two wait."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await held()
        return StopEvent(result=ev.n)
