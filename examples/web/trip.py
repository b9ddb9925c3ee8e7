"""The workflow that the web applications next to this file serve: it reports progress, asks, and ends.

$ umbel worker examples/web/trip.py        # with the same UMBEL_REDIS_URL as the applications
"""

import asyncio

from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Wish(StartEvent):
    city: str


class Searched(Event):
    place: str
    offers: int


class Offer(InputRequiredEvent):
    text: str


class Choice(HumanResponseEvent):
    accepted: bool


class Trip(Workflow):
    @step
    async def search(self, ctx: Context, wish: Wish) -> Offer:
        for place in ("trains", "hotels", "museums"):
            await asyncio.sleep(0.05)  # a call to an external API
            ctx.write_event_to_stream(Searched(place=place, offers=len(place)))
        await ctx.store.set("city", wish.city)
        return Offer(text=f"Three days in {wish.city} for 320 euros?")

    @step
    async def book(self, ctx: Context, choice: Choice) -> StopEvent:
        city = await ctx.store.get("city")
        return StopEvent(result=f"{city} is booked" if choice.accepted else "then not")


trip = Trip(timeout=None)
