# LlamaIndex Workflows is an optional peer.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"
"""LlamaIndex Workflows in the measuring process: no broker, no Redis, no state that outlives the process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from workflows import Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from .contender import Contender
from .shapes_umbel import CHAIN_STEPS, PAYLOAD


class ChainStart(StartEvent):
    """Begins a chain."""

    data: str = PAYLOAD


class Hop(Event):
    """From one step of a chain to the next."""

    number: int
    data: str


class Chain(Workflow):
    """Ten steps, one after the other."""

    @step
    async def hop(self, ev: ChainStart | Hop) -> Hop | StopEvent:
        """One link."""
        number = ev.number if isinstance(ev, Hop) else 1
        if number == CHAIN_STEPS:
            return StopEvent(result=ev.data)
        return Hop(number=number + 1, data=ev.data)


class Single(Workflow):
    """One step."""

    @step
    async def only(self, ev: ChainStart) -> StopEvent:
        """Return the input."""
        return StopEvent(result=ev.data)


class FanStart(StartEvent):
    """Begins a fan-out."""

    width: int


class Part(Event):
    """One of many."""

    number: int
    data: str = PAYLOAD


class PartDone(Event):
    """One of many, done."""

    number: int
    data: str = PAYLOAD


class Fan(Workflow):
    """One step, `width` steps, one step with all their events. Four at once, the default, is its fastest setting."""

    @step
    async def split(self, ev: FanStart) -> list[Part]:
        """Fan out."""
        return [Part(number=number) for number in range(ev.width)]

    @step
    async def work(self, ev: Part) -> PartDone:
        """Do nothing."""
        return PartDone(number=ev.number, data=ev.data)

    @step
    async def join(self, parts: list[PartDone]) -> StopEvent:
        """Count the events."""
        return StopEvent(result=len(parts))


class LlamaIndex(Contender):
    """Runs on an event loop of the measuring process."""

    has_redis = False
    widest = 1000

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._loop = asyncio.Runner()
        self._chain, self._fan, self._single = Chain(timeout=None), Fan(timeout=None), Single(timeout=None)

    @property
    def about(self) -> str:
        return "in the measuring process"

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        yield
        self._loop.run(_all_of(self._chain, runs))

    def fans(self, runs: int, width: int) -> None:
        assert self._loop.run(_all_of(self._fan, runs, width=width)) == [width] * runs

    def single(self) -> None:
        self._loop.run(_all_of(self._single, 1))

    def close(self) -> None:
        self._loop.close()


async def _all_of(workflow: Any, runs: int, **start: Any) -> list[Any]:
    return list(await asyncio.gather(*(workflow.run(**start) for _ in range(runs))))
