"""Workflows to display: they ask, fan out, fail and keep state."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

from celery import current_task
from pydantic import BaseModel, Field, field_validator

from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from umbel.resource import Resource
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed

logger = logging.getLogger("bank")
logger.setLevel(logging.INFO)

#: Closed gates: steps wait at them.
CLOSED: set[str] = set()


async def opened(gate: str) -> None:
    """Wait until the gate is open."""
    while gate in CLOSED:
        await asyncio.sleep(0.01)


class Limits(BaseModel):
    """A spending limit."""

    euros: int = 500


async def limits() -> Limits:
    """Return the limits of this quarter."""
    return Limits()


class Traveller(BaseModel):
    name: str = Field(description="As in the passport")
    seat: Literal["window", "aisle"] = "window"


class Trip(StartEvent):
    """A trip to be booked."""

    city: str = Field(description="Where to", min_length=2)
    nights: int = Field(default=2, ge=1, le=30)
    budget: float = 420.5
    refundable: bool = True
    traveller: Traveller
    stops: list[str] = Field(default_factory=list, description="On the way")
    notes: dict[str, str] | None = None

    @field_validator("city")
    @classmethod
    def is_found_on_maps(cls, city: str) -> str:
        """Raise an error that no JSON schema expresses."""
        if city == "Atlantis":
            raise ValueError("it has sunk")
        return city


class Offer(Event):
    hotel: str
    euros: float


class Checked(Event):
    hotel: str
    euros: float


class Question(InputRequiredEvent):
    text: str


class Decision(HumanResponseEvent):
    approved: bool = Field(description="May it be booked?")
    by: str = Field(min_length=1)


class Chosen(Event):
    hotel: str


class Booking(Workflow):
    """Finds hotels, asks before it books one."""

    @step
    async def search(self, ctx: Context, ev: Trip) -> list[Offer]:
        """Return one offer for each hotel."""
        await ctx.store.set("city", ev.city)
        await ctx.store.set("asked", {"nights": ev.nights, "traveller": ev.traveller.name})
        ctx.write_event_to_stream(Event(text=f"looking for hotels in {ev.city}"))
        return [Offer(hotel=name, euros=90.0 + 20 * n) for n, name in enumerate(("Aurora", "Bristol", "Central"))]

    @step(num_workers=2)
    async def check(self, ctx: Context, ev: Offer) -> Checked:
        """Check whether the hotel has a room."""
        await opened(f"check {ev.hotel}")
        ctx.write_event_to_stream(Event(text=f"{ev.hotel} has a room"))
        return Checked(hotel=ev.hotel, euros=ev.euros)

    @step
    async def choose(self, evs: list[Checked]) -> Chosen:
        """Choose the cheapest."""
        return Chosen(hotel=min(evs, key=lambda ev: ev.euros).hotel)

    @step
    async def ask(self, ctx: Context, ev: Chosen, limit: Annotated[Limits, Resource(limits)]) -> StopEvent:
        """Wait for a human to approve."""
        decision = await ctx.wait_for_event(Decision, waiter_event=Question(text=f"Book {ev.hotel}?"))
        if not decision.approved:
            return StopEvent(result=f"{decision.by} refused")
        return StopEvent(result={"hotel": ev.hotel, "by": decision.by, "limit": limit.euros})


class Charge(StartEvent):
    euros: int = 10
    note: str = ""


class Charged(Event):
    euros: int


class Payment(Workflow):
    """Fails as long as the bank is closed."""

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    async def charge(self, ctx: Context, ev: Charge) -> Charged:
        ctx.write_event_to_stream(Event(note=ev.note))
        logger.info("charging %d euros", ev.euros)
        if "bank" in CLOSED:
            logger.error("no answer of the bank")
            raise RuntimeError("the bank is closed")
        return Charged(euros=ev.euros)

    @step
    async def thank(self, ev: Charged) -> StopEvent:
        await opened("thank")
        return StopEvent(result=f"paid {ev.euros}")


class Ask(InputRequiredEvent):
    question: str


class Reply(HumanResponseEvent):
    text: str


class Quiz(Workflow):
    """Asks by returning an event; another step takes the answer."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Ask:
        """Store every field of the start event in the state."""
        for name, value in ev.items():
            await ctx.store.set(name, value)
        return Ask(question="Which river?")

    @step
    async def judge(self, ev: Reply) -> StopEvent:
        return StopEvent(result=ev.text)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Branch(BaseModel):
    name: str
    branches: list[Branch] = Field(default_factory=list)


class Odd(StartEvent):
    """Fields of unusual types."""

    value: str = "a name that envelopes have, too"
    colour: Colour
    when: datetime
    maybe: Traveller | None = None
    people: list[Traveller] = Field(default_factory=list, max_length=2)
    tree: Branch
    pair: tuple[int, str] = (1, "one")
    either: int | str = 3
    sure: bool | None = None
    code: str = Field(default="AB-1", pattern=r"^[A-Z]{2}-\d$")
    ratio: float = Field(default=0.5, gt=0, lt=1)
    anything: Any = None
    wire: int = Field(default=7, alias="wire-name")


class Oddities(Workflow):
    """Returns its input."""

    @step
    async def echo(self, ev: Odd) -> StopEvent:
        return StopEvent(result=ev.model_dump(mode="json"))


class Say(StartEvent):
    text: str


class Piece(Event):
    text: str


class Talk(Workflow):
    """Echoes its input word by word."""

    @step
    async def answer(self, ctx: Context, ev: Say) -> StopEvent:
        """Keep the conversation in the state."""
        said = await ctx.store.get("said", default=[])
        for word in ["You", "said", f"{len(said) + 1}:", *ev.text.split()]:
            ctx.write_event_to_stream(Piece(text=f"{word} "))
        await opened("talk")
        await ctx.store.set("said", [*said, ev.text])
        return StopEvent(result="said")


class Shop(StartEvent):
    items: int = 2


class Shopping(Workflow):
    """Pays for each item in a child run."""

    @step
    async def buy(self, ctx: Context, ev: Shop) -> StopEvent:
        paid = [await ctx.run(Payment(), Charge(euros=n), name=f"item {n}") for n in range(ev.items)]
        return StopEvent(result=paid)


class Errands(Workflow):
    """Goes shopping in a child run."""

    @step
    async def go(self, ctx: Context, ev: Shop) -> StopEvent:
        return StopEvent(result=await ctx.run(Shopping(), ev, name="shopping"))


class Many(StartEvent):
    items: int = 100
    notes: int = 3


class Item(Event):
    number: int
    notes: int


class Crowd(Workflow):
    """Many executions, each of which publishes a few events."""

    @step
    async def split(self, ev: Many) -> list[Item]:
        return [Item(number=number, notes=ev.notes) for number in range(ev.items)]

    @step(num_workers=64)
    async def note(self, ctx: Context, ev: Item) -> Charged:
        for number in range(ev.notes):
            ctx.write_event_to_stream(Piece(text=f"item {ev.number}, note {number}"))
        return Charged(euros=1)

    @step
    async def total(self, evs: list[Charged]) -> StopEvent:
        return StopEvent(result=len(evs))


class Prices(StartEvent):
    prices: list[str]


class Stage(Event):
    number: int
    prices: list[str]


def stage(number: int) -> Any:
    """Return the step of one of nine stages; the seventh adds up the prices."""

    async def run(self: Any, ctx: Context, ev: Event) -> Event:
        if number == 7:
            await ctx.store.set("total", sum(float(price) for price in ev.prices))
        if number == 9:
            return StopEvent(result=await ctx.store.get("total"))
        await ctx.store.set("stage", number)
        return STAGES[number](number=number, prices=ev.prices)

    taken = Prices if number == 1 else STAGES[number - 1]
    run.__name__, run.__qualname__ = f"stage{number}", f"Nine.stage{number}"
    run.__annotations__ = {"ctx": Context, "ev": taken, "return": StopEvent if number == 9 else STAGES[number]}
    return step(run)


STAGES = {number: type(f"Stage{number}", (Stage,), {"__module__": __name__}) for number in range(1, 9)}


class Nine(Workflow):
    """Nine steps; the seventh fails on a price that is not a number."""

    for _number in range(1, 10):
        vars()[f"stage{_number}"] = stage(_number)


class Named(Workflow):
    """Returns the id of its Celery task."""

    @step
    async def name(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=current_task.request.id)


class Unserved(Workflow):
    """A workflow that this server does not know."""

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")


#: The workflows by the name under which they are served.
WORKFLOWS: dict[str, type[Workflow]] = {
    "booking": Booking,
    "payment": Payment,
    "quiz": Quiz,
    "oddities": Oddities,
    "talk": Talk,
    "shopping": Shopping,
    "errands": Errands,
    "crowd": Crowd,
    "nine": Nine,
    "named": Named,
}
