"""Runs with values of several types in their state, or in an event on its way."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

from .single import Letter, Number, held


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
