"""The measured shapes as umbel workflows. Steps do nothing, events carry about 200 bytes."""

from __future__ import annotations

import os
import time

import redis

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

#: What every event and every task argument carries along.
PAYLOAD = "x" * 200
CHAIN_STEPS = 10
#: The step of a chain that waits at the gate, when there is one.
GATED_STEP = 5


def pass_gate(gate: str | None) -> None:
    """Wait until somebody pushes a token onto the list `gate`; None is no gate."""
    if gate is not None:
        with redis.Redis.from_url(os.environ["BENCHMARK_REDIS"], socket_timeout=None) as client:
            client.blpop([gate], timeout=60)


class ChainStart(StartEvent):
    """Begins a chain, which half-way waits at `gate`."""

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
    def hop(self, ev: ChainStart | Hop) -> Hop | StopEvent:
        """One link."""
        number = ev.number if isinstance(ev, Hop) else 1
        if number == GATED_STEP:
            pass_gate(ev.gate)
        if number == CHAIN_STEPS:
            return StopEvent(result=ev.data)
        return Hop(number=number + 1, gate=ev.gate, data=ev.data)


class FanStart(StartEvent):
    """Begins a fan-out."""

    width: int


class Part(Event):
    """One of many."""

    number: int
    data: str


class PartDone(Event):
    """One of many, done."""

    number: int
    data: str


class Fan(Workflow):
    """One step, `width` steps of which 50 at a time, one step with all their events."""

    @step
    def split(self, ev: FanStart) -> list[Part]:
        """Fan out."""
        return [Part(number=number, data=PAYLOAD) for number in range(ev.width)]

    @step(num_workers=50)
    def work(self, ev: Part) -> PartDone:
        """Do nothing."""
        return PartDone(number=ev.number, data=ev.data)

    @step
    def join(self, parts: list[PartDone]) -> StopEvent:
        """Count what came."""
        return StopEvent(result=len(parts))


class Single(Workflow):
    """One step."""

    @step
    def only(self, ev: ChainStart) -> StopEvent:
        """Give back what came."""
        return StopEvent(result=ev.data)


class TickerStart(StartEvent):
    """Begins a run that publishes `count` events, one each `pause_seconds`."""

    count: int
    pause_seconds: float


class Tick(Event):
    """When it was written, by the machine's clock in nanoseconds."""

    written_at_ns: int
    data: str


class Ticker(Workflow):
    """One step that reports while it works."""

    @step
    def tick(self, ctx: Context, ev: TickerStart) -> StopEvent:
        """Write events."""
        for _ in range(ev.count):
            time.sleep(ev.pause_seconds)
            ctx.write_event_to_stream(Tick(written_at_ns=time.time_ns(), data=PAYLOAD))
        return StopEvent()
