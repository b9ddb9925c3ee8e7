"""The measured shapes as umbel workflows. Steps do nothing, events carry about 200 bytes."""

from __future__ import annotations

import asyncio
import os
import time

import redis

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

#: Carried by every event and in every task argument.
PAYLOAD = "x" * 200
CHAIN_STEPS = 10
#: The step of a chain that waits at the gate, if there is one.
GATED_STEP = 5


def pass_gate(gate: str | None) -> None:
    """Wait until a token is pushed onto the list `gate`; None is no gate."""
    if gate is not None:
        with redis.Redis.from_url(os.environ["BENCHMARK_REDIS"], socket_timeout=None) as client:
            client.blpop([gate], timeout=60)


class ChainStart(StartEvent):
    """Begins a chain, which waits at `gate` half-way."""

    gate: str | None = None
    data: str = PAYLOAD


class Hop(Event):
    """From one step of a chain to the next."""

    number: int
    gate: str | None
    data: str


class Chain(Workflow):
    """Ten steps, one after the other."""

    @step
    async def hop(self, ev: ChainStart | Hop) -> Hop | StopEvent:
        """One link."""
        number = ev.number if isinstance(ev, Hop) else 1
        if number == GATED_STEP and ev.gate is not None:
            await asyncio.to_thread(pass_gate, ev.gate)
        if number == CHAIN_STEPS:
            return StopEvent(result=ev.data)
        return Hop(number=number + 1, gate=ev.gate, data=ev.data)


class LoopStart(StartEvent):
    """Begins a loop of `length` steps."""

    length: int
    data: str = PAYLOAD


class Again(Event):
    """Repeat `left` more times."""

    left: int
    data: str


class Loop(Workflow):
    """One step that repeats `length` times."""

    @step
    async def turn(self, ev: LoopStart | Again) -> Again | StopEvent:
        """One turn."""
        left = ev.left if isinstance(ev, Again) else ev.length - 1
        return Again(left=left - 1, data=ev.data) if left else StopEvent()


class Single(Workflow):
    """One step."""

    @step
    async def only(self, ev: ChainStart) -> StopEvent:
        """Return the input."""
        return StopEvent(result=ev.data)


class Part(Event):
    """One of many."""

    number: int
    data: str = PAYLOAD


class PartDone(Event):
    """One of many, done."""

    number: int
    data: str = PAYLOAD


class FanStart(StartEvent):
    """Begins a fan-out, whose parts take `seconds`."""

    width: int
    seconds: float = 0.0


class Fan(Workflow):
    """One step, `width` steps, one step with all their events.

    Since the parts take no time, eight of them at once keep two workers busy; more would only queue elsewhere.
    """

    @step
    async def split(self, ev: FanStart) -> list[Part]:
        """Fan out."""
        return [Part(number=number) for number in range(ev.width)]

    @step(num_workers=8)
    async def work(self, ev: Part) -> PartDone:
        """Do nothing."""
        return PartDone(number=ev.number, data=ev.data)

    @step
    async def join(self, parts: list[PartDone]) -> StopEvent:
        """Count the events."""
        return StopEvent(result=len(parts))


class Stint(Event):
    """One of many parts that take a while."""

    seconds: float


class Await(Workflow):
    """A fan-out whose steps all wait at once."""

    @step
    async def split(self, ev: FanStart) -> list[Stint]:
        """Fan out."""
        return [Stint(seconds=ev.seconds) for _ in range(ev.width)]

    @step(num_workers=1000)
    async def work(self, ev: Stint) -> PartDone:
        """Wait, as for an external reply."""
        await asyncio.sleep(ev.seconds)
        return PartDone(number=0)

    @step
    async def join(self, parts: list[PartDone]) -> StopEvent:
        """Count the events."""
        return StopEvent(result=len(parts))


class Compute(Workflow):
    """A fan-out whose steps compute."""

    @step
    async def split(self, ev: FanStart) -> list[Stint]:
        """Fan out."""
        return [Stint(seconds=ev.seconds) for _ in range(ev.width)]

    @step(num_workers=16)
    def work(self, ev: Stint) -> PartDone:
        """Use this much processor time."""
        enough = time.thread_time() + ev.seconds
        while time.thread_time() < enough:
            pass
        return PartDone(number=0)

    @step
    async def join(self, parts: list[PartDone]) -> StopEvent:
        """Count the events."""
        return StopEvent(result=len(parts))


class TickerStart(StartEvent):
    """Begins a run that publishes `count` events at intervals of `pause_seconds`."""

    count: int
    pause_seconds: float


class Tick(Event):
    """A progress event with the time of writing, by the machine's clock in nanoseconds."""

    number: int
    written_at_ns: int
    data: str


class Ticker(Workflow):
    """One step that reports progress."""

    @step
    async def tick(self, ctx: Context, ev: TickerStart) -> StopEvent:
        """Write events."""
        for number in range(ev.count):
            if ev.pause_seconds:
                await asyncio.sleep(ev.pause_seconds)
            ctx.write_event_to_stream(Tick(number=number, written_at_ns=time.time_ns(), data=PAYLOAD))
        return StopEvent()


class PlainTicker(Workflow):
    """The same in a plain step, which is executed in a thread."""

    @step
    def tick(self, ctx: Context, ev: TickerStart) -> StopEvent:
        """Write events."""
        for number in range(ev.count):
            if ev.pause_seconds:
                time.sleep(ev.pause_seconds)
            ctx.write_event_to_stream(Tick(number=number, written_at_ns=time.time_ns(), data=PAYLOAD))
        return StopEvent()
