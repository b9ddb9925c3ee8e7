"""Workflows to watch in Flower: a fan-out, a step that succeeds at its second attempt, and one that always fails."""

from __future__ import annotations

from umbel import Context, Event, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed


class Item(Event):
    name: str


class Packed(Event):
    name: str


class Parcel(Event):
    names: list[str]


class CardDeclined(Exception):
    """The exception of a bank."""


class Order(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Item]:
        return [Item(name=name) for name in ev.names]

    @step(num_workers=4)
    def pack(self, ev: Item) -> Packed:
        return Packed(name=ev.name)

    @step
    async def bundle(self, evs: list[Packed]) -> Parcel:
        return Parcel(names=sorted(ev.name for ev in evs))

    @step(retry_policy=retry_policy(wait=wait_fixed(0.05), stop=stop_after_attempt(3)))
    def charge(self, ctx: Context, ev: Parcel) -> StopEvent:
        if ctx.attempt < 2:
            raise CardDeclined("limit reached")
        return StopEvent(result=ev.names)


class Refund(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.05), stop=stop_after_attempt(2)))
    async def pay(self, ev: StartEvent) -> StopEvent:
        raise CardDeclined("no such card")
