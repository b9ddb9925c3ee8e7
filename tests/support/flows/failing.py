"""Steps that fail, and how many of their errors and locals their process still has."""

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
    """What a failing step had made."""


class Next(Event):
    pass


def fail() -> None:
    """Raise an error that its own frame and its cause's refer to."""
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
    """From now on nothing that refers to itself is freed in this process."""

    @step
    def go(self, ev: StartEvent) -> StopEvent:
        gc.collect()
        gc.disable()
        return StopEvent()


class Alive(Workflow):
    """How many were made here, and how many there still are."""

    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[len(_made), sum(ref() is not None for ref in _made)])
