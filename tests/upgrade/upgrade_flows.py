"""Workflows of the stored runs: the same code before and after the upgrade.

The old release executed this module with HOLD_STEPS set: steps that call `held` stay there until their worker is
killed, `breaks` fails, and `Parcel` lacks a step. Today's worker executes it without.
"""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

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


class FanOut(Workflow):
    """Three of six have arrived; of the others two are held and one waits for a slot."""

    @step
    async def spread(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(6)]

    @step(num_workers=2)
    async def square(self, ev: Number) -> Squared:
        if ev.n > 2:
            await held()
        return Squared(n=ev.n * ev.n)

    @step
    async def total(self, evs: list[Squared]) -> StopEvent:
        return StopEvent(result=[len(evs), sum(ev.n for ev in evs)])


class Nested(Workflow):
    """A fan-out in a fan-out, half of each gathered."""

    @step
    async def chapters(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in (0, 1, 2)]

    @step
    async def words(self, ev: Number) -> list[Letter]:
        return [Letter(text=f"{ev.n}{mark}") for mark in "abc"]

    @step(num_workers=20)
    async def spell(self, ev: Letter) -> Progress | None:
        if ev.text in ("1b", "2a", "2c"):
            await held()
        return None if ev.text == "0c" else Progress(text=ev.text)

    @step
    async def chapter(self, evs: list[Progress]) -> Squared:
        return Squared(n=len(evs))

    @step
    async def book(self, evs: list[Squared]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


class Joins(Workflow):
    """One of two events of a join has arrived."""

    @step
    async def quick(self, ev: StartEvent) -> Number:
        return Number(n=7)

    @step
    async def slow(self, ev: StartEvent) -> Letter:
        await held()
        return Letter(text="seven")

    @step
    async def both(self, number: Number, letter: Letter) -> StopEvent:
        return StopEvent(result=f"{number.n} is {letter.text}")


class Line(Workflow):
    """One step at a time: the first is held, four wait in line."""

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> list[Number]:
        await ctx.store.set("order", [])
        return [Number(n=n) for n in range(5)]

    @step(num_workers=1)
    async def pass_through(self, ctx: Context, ev: Number) -> Squared:
        await held()
        async with ctx.store.edit_state() as state:
            state["order"].append(ev.n)
        return Squared(n=ev.n)

    @step
    async def close(self, ctx: Context, evs: list[Squared]) -> StopEvent:
        return StopEvent(result=await ctx.store.get("order"))


class Collects(Workflow):
    """Two of four events of a `collect_events` set are there."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Letter | Number | None:
        for n in (1, 2):
            ctx.send_event(Number(n=n))
        for text in ("three", "four"):
            ctx.send_event(Letter(text=text))
        return None

    @step
    async def late(self, ev: Letter) -> Number:
        await held()
        return Number(n={"three": 3, "four": 4}[ev.text])

    @step
    async def gather(self, ctx: Context, ev: Number) -> StopEvent | None:
        found = ctx.collect_events(ev, [Number] * 4)
        return None if found is None else StopEvent(result=sorted(each.n for each in found))


class SendsEarly(Workflow):
    """Has sent events before it was held: what its next attempt sends again is delivered once."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Letter | Number:
        for n in (1, 2, 3):
            ctx.send_event(Number(n=n))
        await held()
        return Letter(text="sent")

    @step
    async def count(self, ctx: Context, ev: Number) -> None:
        async with ctx.store.edit_state() as state:
            state["seen"] = [*state.get("seen", []), ev.n]

    @step
    async def close(self, ctx: Context, ev: Letter) -> StopEvent:
        return StopEvent(result=sorted(await ctx.store.get("seen")))


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


class Point(BaseModel):
    x: int
    y: Decimal


class Account(BaseModel):
    owner: str = "nobody"
    euros: int = 0
    where: Point | None = None


#: What `Stores` keeps in its state.
VALUES: dict[str, Any] = {
    "number": 7,
    "share": 0.1,
    "text": "Übermut – 世界",
    "nothing": None,
    "truth": True,
    "list": [1, "two", [3.0, None]],
    "nested": {"a": {"b": [1, 2]}, "empty": {}},
    "model": Point(x=1, y=Decimal("2.50")),
    "event": Letter(text="stored"),
}


class Stores(Workflow):
    """Values of several types are in its state; the second step reads them."""

    @step
    async def write(self, ctx: Context, ev: StartEvent) -> Number:
        for key, value in VALUES.items():
            await ctx.store.set(key, value)
        return Number(n=1)

    @step
    async def read(self, ctx: Context, ev: Number) -> StopEvent:
        await held()
        found = {key: await ctx.store.get(key) for key in VALUES}
        wrong = [key for key, value in VALUES.items() if found[key] != value or type(found[key]) is not type(value)]
        return StopEvent(result=wrong)


class Typed(Workflow):
    """Its state is a model."""

    @step
    async def write(self, ctx: Context[Account], ev: StartEvent) -> Number:
        async with ctx.store.edit_state() as state:
            state.owner, state.euros, state.where = "Ada", 12, Point(x=3, y=Decimal("0.1"))
        return Number(n=1)

    @step
    async def read(self, ctx: Context[Account], ev: Number) -> StopEvent:
        await held()
        state = await ctx.store.get_state()
        return StopEvent(result=[type(state).__name__, state.owner, state.euros, str(state.where)])


class Carried(Event):
    at: datetime
    price: Decimal
    raw: bytes
    point: Point


class Carries(Workflow):
    """An event with fields of several types is on its way."""

    @step
    async def write(self, ev: StartEvent) -> Carried:
        return Carried(
            at=datetime(2026, 2, 3, 4, 5, tzinfo=UTC),
            price=Decimal("9.90"),
            raw=b"bytes",
            point=Point(x=1, y=Decimal(2)),
        )

    @step
    async def read(self, ev: Carried) -> StopEvent:
        await held()
        return StopEvent(result=[ev.at.isoformat(), str(ev.price), ev.raw.decode(), ev.point.x])
