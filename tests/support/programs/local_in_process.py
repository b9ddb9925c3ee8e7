"""A program that uses `umbel.local(in_process=True)` in every intended way, and prints what it found."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import umbel
from umbel import ConfigurationError, Event, NotConfigured, StartEvent, StopEvent, Workflow, step


class Number(Event):
    n: int


class OnLoop(Workflow):
    """Returns the loop it ran on; also has a plain step."""

    @step
    async def where(self, ev: StartEvent) -> Number:
        return Number(n=id(asyncio.get_running_loop()))

    @step
    def end(self, ev: Number) -> StopEvent:
        return StopEvent(result=[ev.n, threading.current_thread().name])


class OnGpu(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> Number:
        return Number(n=1)

    @step(queue="gpu")
    def render(self, ev: Number) -> StopEvent:
        return StopEvent(result="rendered")


async def on_the_callers_loop() -> bool:
    loop, _ = await OnLoop().run()
    return bool(loop == id(asyncio.get_running_loop()))


async def shared_with_closures() -> Any:
    """A class inside a function, and asyncio objects that steps and caller share."""
    asked: asyncio.Queue[str] = asyncio.Queue()
    answered = asyncio.Event()
    seen: list[str] = []

    class Local(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Number:
            await asked.put(ev.question)
            await answered.wait()
            return Number(n=len(seen))

        @step
        async def end(self, ev: Number) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Local().run(question="how many?")
    seen.append(await asked.get())
    answered.set()
    return [await handler, *seen]


def one_block() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with umbel.local(in_process=True):
        found["first loop"] = asyncio.run(on_the_callers_loop())
        found["second loop"] = asyncio.run(on_the_callers_loop())
        found["closures"] = asyncio.run(shared_with_closures())
        found["without a loop"] = len(OnLoop().start().result(timeout=30))
        found["many at once"] = [handler.result(timeout=30)[1][:5] for handler in [OnLoop().start() for _ in range(5)]]
        found["a queue of its own"] = OnGpu().start().result(timeout=30)
        try:
            with umbel.local(in_process=True):
                pass
        except ConfigurationError as error:
            found["a second block inside"] = str(error)
        found["after the refusal"] = asyncio.run(on_the_callers_loop())
    try:
        OnLoop().start()
    except NotConfigured:
        found["after the block"] = "not configured"
    return found


def registered_beforehand() -> Any:
    with umbel.local(OnGpu, in_process=True):
        return OnGpu().start().result(timeout=30)


if __name__ == "__main__":
    print(json.dumps([one_block(), one_block(), registered_beforehand()]))
