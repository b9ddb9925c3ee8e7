"""Runs whose events are on several ways at once: fan-outs, joins, lines, sets, and events that were sent early."""

from __future__ import annotations

from umbel import Context, StartEvent, StopEvent, Workflow, step

from .single import Letter, Number, Progress, Squared, held


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
