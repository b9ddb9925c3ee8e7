"""An order pipeline made of workflows: each order is a child run, and so are its payment and its delivery.

    umbel exec examples/orders.py

The pipeline occupies no worker while its orders are in progress. Kill workers meanwhile (`umbel worker`, in several
terminals): every order is paid once and delivered once.
"""

from __future__ import annotations

import asyncio

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.errors import ChildFailed


class Booked(Event):
    """Published for readers of the stream."""

    order: str
    what: str


class Payment(Workflow):
    """Charges a card. The idempotency key is the same in all attempts: a real provider would charge once."""

    @step
    async def charge(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ev.amount > 1000:
            raise ValueError(f"{ev.order} is above the limit of the card")
        ctx.write_event_to_stream(Booked(order=ev.order, what=f"{ev.amount} charged"))
        return StopEvent(result=ctx.idempotency_key)


class Delivery(Workflow):
    """Packs and ships a parcel."""

    @step
    async def send(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Booked(order=ev.order, what="sent"))
        return StopEvent(result=f"parcel of {ev.order}")


class Order(Workflow):
    """One order: pays, then delivers."""

    @step
    async def handle(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.run(Payment(), order=ev.order, amount=ev.amount)
        return StopEvent(result=await ctx.run(Delivery(), order=ev.order))


class Pipeline(Workflow):
    """All orders of a day, a few at a time."""

    @step
    async def handle_all(self, ctx: Context, ev: StartEvent) -> StopEvent:
        orders = [Order.start(order=order, amount=amount) for order, amount in ev.orders.items()]
        ends = await ctx.run_all(orders, limit=5, return_exceptions=True)
        failed = [order for order, end in zip(ev.orders, ends, strict=True) if isinstance(end, ChildFailed)]
        return StopEvent(result={"parcels": [end for end in ends if isinstance(end, str)], "failed": failed})


async def main() -> None:
    """Handle some orders and print their events."""
    orders = {f"order {number}": 100 * number for number in range(1, 13)}
    handler = Pipeline(timeout=None).run(orders=orders)
    async for event in handler.stream_events(include_children=True, types=[Booked]):
        print(f"{event.order}: {event.what}")
    result = await handler
    print(f"{len(result['parcels'])} parcels; failed: {'; '.join(result['failed']) or 'none'}")


if __name__ == "__main__":
    asyncio.run(main())
