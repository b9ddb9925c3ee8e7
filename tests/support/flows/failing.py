"""Steps that fail, and a count of their errors and locals that are still alive in their process."""

from __future__ import annotations

import asyncio
import gc
import weakref

from umbel import Event, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.retry_policy import stop_after_attempt, wait_fixed

_made: list[weakref.ref[object]] = []


class Remembered(Exception):
    pass


class Local:
    """A local variable of a failing step."""


class Next(Event):
    pass


def fail() -> None:
    """Raise an error that is part of reference cycles: its own frame and that of its cause refer to it."""
    local = Local()
    try:
        raise Remembered("cause")
    except Remembered as cause:
        error = Remembered("failed")
        _made.extend((weakref.ref(local), weakref.ref(cause), weakref.ref(error)))
        kept = cause
        raise error from kept


class FailsOnLoop(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0)
        fail()
        return StopEvent()


class FailsInThread(Workflow):
    @step
    def go(self, ev: StartEvent) -> StopEvent:
        fail()
        return StopEvent()


class FailsAgain(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Next:
        return Next()

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def go(self, ev: Next) -> StopEvent:
        fail()
        return StopEvent()


class Uncollected(Workflow):
    """Turns off garbage collection in this process: from then on no reference cycle is freed."""

    @step
    def go(self, ev: StartEvent) -> StopEvent:
        gc.collect()
        gc.disable()
        return StopEvent()


class Alive(Workflow):
    """Returns how many tracked objects were created here and how many are still alive."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[len(_made), sum(ref() is not None for ref in _made)])
