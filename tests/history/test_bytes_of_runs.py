"""The size of finished runs in Redis, with full history: limits that no change may exceed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from umbel import StartEvent, StopEvent, Workflow, step
from umbel.events import Event
from umbel.orchestration.history.packing.chunks import pack_run
from umbel.orchestration.history.verify import verify


class Turn(Event):
    number: int
    data: str


class Chain(Workflow):
    """Ten consecutive steps, with events of 200 bytes."""

    @step
    async def turn(self, ev: StartEvent | Turn) -> Turn | StopEvent:
        number = ev.number + 1 if isinstance(ev, Turn) else 1
        return StopEvent(result=number) if number == 10 else Turn(number=number, data="x" * 200)


class Part(Event):
    number: int
    data: str


class Done(Event):
    number: int


class Fan(Workflow):
    """A hundred parallel steps, and one that gathers them."""

    @step
    async def split(self, ev: StartEvent) -> list[Part]:
        return [Part(number=number, data="x" * 200) for number in range(100)]

    @step(num_workers=8)
    async def work(self, ev: Part) -> Done:
        return Done(number=ev.number)

    @step
    async def join(self, done: list[Done]) -> StopEvent:
        return StopEvent(result=len(done))


@pytest.mark.parametrize(("workflow", "at_first", "packed"), [(Chain, 20_000, 8_000), (Fan, 190_000, 60_000)])
async def test_a_finished_run_takes_few_bytes_with_its_full_history(
    runtime: Any, workflow: type[Workflow], at_first: int, packed: int
) -> None:
    handler = workflow().run()
    await handler
    store = runtime.store

    assert await used(store, handler.run_id) <= at_first
    await asyncio.to_thread(runtime.portal.call, pack_run(store, handler.run_id))
    assert await used(store, handler.run_id) <= packed
    assert (await verify(store, handler.run_id)).holds


async def used(store: Any, run_id: str) -> int:
    """Return the bytes of a run's keys, without its own events and the replies of its commits, which soon expire."""
    keys = store.locate(run_id)
    names = ("run", "journal", "packed", "stream", "trace", "children", "extra")
    found = await store.batch("measure a run", *(("MEMORY", "USAGE", keys[name], "SAMPLES", 0) for name in names))
    return sum(size or 0 for size in found)
