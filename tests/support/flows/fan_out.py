"""Events of fan-outs, and a workflow whose branches end in a chosen order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from umbel import Workflow, step
from umbel.events import (
    Event,
    HumanResponseEvent,
    StartEvent,
    StepState,
    StepStateChanged,
    StopEvent,
)
from umbel.handler import WorkflowHandler


class Item(Event):
    n: int


class Done(Event):
    n: int


class Group(Event):
    ns: list[int]


class Total(Event):
    ns: list[int]


class Left(Event):
    n: int


class Right(Event):
    n: int


class End(HumanResponseEvent):
    pass


class Gates:
    """Makes the executions of a step named `work` end in a chosen order, each once the previous one is recorded."""

    def __init__(self, *order: int) -> None:
        self.order = order
        self.opened = {n: asyncio.Event() for n in order}

    async def passes(self, n: int) -> None:
        await self.opened[n].wait()

    async def open_one_by_one(self, handler: WorkflowHandler) -> None:
        waiting = iter(self.order)
        self.opened[next(waiting)].set()
        async for event in handler.stream_events(expose_internal=True):
            ended = isinstance(event, StepStateChanged) and event.step_state is StepState.NOT_RUNNING
            if ended and event.name == "work" and (n := next(waiting, None)) is not None:
                self.opened[n].set()


def gated(gates: Gates, *, dead: Sequence[int] = ()) -> type[Workflow]:
    """A workflow that fans out to 0, 1, 2 and gathers what passes the gates; the branches in `dead` return None."""

    class Gated(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Done | None:
            await gates.passes(ev.n)
            return None if ev.n in dead else Done(n=ev.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    return Gated
