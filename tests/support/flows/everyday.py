"""Workflows for real worker processes. Steps log their effects; at a gate, they wait until the test opens it.

Both the worker and the test import this module under the same name, so a workflow has one name in both.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from umbel import Context, Event, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed

#: Environment variable with the folder of the log and the gates.
FOLDER = "EFFECTS_FOLDER"


def effect(what: str, ctx: Context | None = None, **more: Any) -> None:
    """Log an effect. O_APPEND keeps lines of many processes whole, and a SIGKILL loses none that were written."""
    line: dict[str, Any] = {"what": what, "pid": os.getpid(), "at": time.monotonic(), **more}
    if ctx is not None:
        line |= {"run": ctx.run_id, "attempt": ctx.attempt}
    descriptor = os.open(Path(os.environ[FOLDER], "effects"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def is_open(gate: str) -> bool:
    """Whether the test has opened this gate."""
    return Path(os.environ[FOLDER], f"gate-{gate}").exists()


def hold(gate: str) -> None:
    """Block until the test opens the gate."""
    while not is_open(gate):
        time.sleep(0.01)


async def hold_on_loop(gate: str) -> None:
    """Wait for the gate in an async step."""
    while not is_open(gate):
        await asyncio.sleep(0.01)


class Number(Event):
    n: int


class Squared(Event):
    n: int


class Told(Event):
    text: str


class Chain(Workflow):
    """Async, plain, async; each takes as long as the start event says."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Number:
        effect("first", ctx)
        await ctx.store.set("seconds", ev.get("seconds", 0.0))
        await asyncio.sleep(ev.get("seconds", 0.0))
        return Number(n=ev.n)

    @step
    def second(self, ctx: Context, ev: Number) -> Squared:
        effect("second", ctx)
        time.sleep(ctx.store.get("seconds"))
        return Squared(n=ev.n * ev.n)

    @step
    async def third(self, ctx: Context, ev: Squared) -> StopEvent:
        effect("third", ctx)
        await asyncio.sleep(await ctx.store.get("seconds"))
        return StopEvent(result=ev.n)


class Fan(Workflow):
    """A fan-out over plain steps of a chosen duration, and its fan-in."""

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> list[Number]:
        await ctx.store.set("seconds", ev.get("seconds", 0.0))
        return [Number(n=n) for n in range(ev.n)]

    @step(num_workers=100)
    def square(self, ctx: Context, ev: Number) -> Squared:
        effect("square", ctx, n=ev.n)
        time.sleep(ctx.store.get("seconds"))
        return Squared(n=ev.n * ev.n)

    @step
    async def total(self, ctx: Context, evs: list[Squared]) -> StopEvent:
        effect("total", ctx)
        return StopEvent(result=[len(evs), sum(ev.n for ev in evs)])


class HeldFan(Fan):
    """The same, but its plain steps wait at a gate, so that one worker cannot execute them all."""

    @step(num_workers=100)
    def square(self, ctx: Context, ev: Number) -> Squared:
        effect("square", ctx, n=ev.n)
        hold(ctx.run_id)
        return Squared(n=ev.n * ev.n)


class Broken(Exception):
    """The exception that a failing step raises."""


class Fails(Workflow):
    @step
    def go(self, ev: StartEvent) -> StopEvent:
        raise Broken(f"no such colour: {ev.colour!r}")


class FailsOnLoop(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        raise Broken(f"no such colour: {ev.colour!r}")


class Retried(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.4), stop=stop_after_attempt(3)))
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("tried", ctx)
        if ctx.attempt < 3:
            raise Broken(f"attempt {ctx.attempt}")
        return StopEvent(result=ctx.retry_info().retry_number)


class Live(Workflow):
    """Publishes an event, and ends only when the test has received it."""

    @step
    async def tell(self, ctx: Context, ev: StartEvent) -> Number:
        ctx.write_event_to_stream(Told(text="from the loop"))
        await hold_on_loop(f"{ctx.run_id}-1")
        return Number(n=1)

    @step
    def tell_again(self, ctx: Context, ev: Number) -> StopEvent:
        ctx.write_event_to_stream(Told(text="from a plain step"))
        hold(f"{ctx.run_id}-2")
        return StopEvent(result="heard")


class TooSlow(Workflow):
    @step(timeout=0.3)
    def spin(self, ev: StartEvent) -> StopEvent:
        while True:
            time.sleep(0.001)


class TooSlowOnLoop(Workflow):
    @step(timeout=0.3)
    async def dawdle(self, ev: StartEvent) -> StopEvent:
        await asyncio.Event().wait()
        return StopEvent()


#: Every event loop on which steps of this process have run; kept alive, so that no two get the same identity.
LOOPS: list[asyncio.AbstractEventLoop] = []


class Where(Workflow):
    """Returns the event loop and the process of each async step, and whether it runs on the main thread."""

    @step
    async def spread(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(ev.n)]

    @step(num_workers=100)
    async def look(self, ev: Number) -> Told:
        loop = asyncio.get_running_loop()
        if loop not in LOOPS:
            LOOPS.append(loop)
        await asyncio.sleep(0.005)
        on_main = threading.current_thread() is threading.main_thread()
        return Told(text=f"{os.getpid()} {LOOPS.index(loop)} {on_main}")

    @step
    async def gather(self, evs: list[Told]) -> StopEvent:
        return StopEvent(result=[ev.text.split() for ev in evs])


class Endless(Workflow):
    """Waits until it is cancelled."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("waiting", ctx)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            effect("cancelled", ctx)
            raise
        return StopEvent()


class Held(Workflow):
    """A plain step that waits at a gate, between two other steps; returns its attempt."""

    @step
    async def before(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step
    def held(self, ctx: Context, ev: Number) -> Squared:
        effect("begun", ctx)
        hold(ctx.run_id)
        effect("ended", ctx)
        return Squared(n=ctx.attempt)

    @step
    async def behind(self, ctx: Context, ev: Squared) -> StopEvent:
        effect("behind", ctx)
        return StopEvent(result=ev.n)


class HeldOnLoop(Workflow):
    """An async step that waits at a gate; returns its attempt."""

    @step
    async def held(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("begun", ctx)
        await hold_on_loop(ctx.run_id)
        effect("ended", ctx)
        return StopEvent(result=ctx.attempt)


class Gathering(Workflow):
    """A step that calls Redis in the middle, when the test opens its gate."""

    @step
    async def gather(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("begun", ctx)
        await hold_on_loop(ctx.run_id)
        found = ctx.collect_events(Number(n=1), [Number])
        return StopEvent(result=[each.n for each in found])


class Suicidal(Workflow):
    """A step that kills its own process."""

    @step
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("dying", ctx)
        os.kill(os.getpid(), signal.SIGKILL)
        return StopEvent()


class OnGpu(Workflow):
    """One of its steps uses its own queue."""

    @step
    async def plan(self, ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(10)]

    @step(queue="gpu")
    def render(self, ev: Number) -> Squared:
        return Squared(n=ev.n)

    @step
    async def gather(self, evs: list[Squared]) -> StopEvent:
        return StopEvent(result=len(evs))


class Urgent(Workflow):
    @step(priority=0)
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("urgent", ctx)
        return StopEvent()


class Patient(Workflow):
    @step(priority=9)
    def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        effect("patient", ctx)
        return StopEvent()
