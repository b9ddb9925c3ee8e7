"""A run puts only a limited number of messages into the broker's queue, because all other runs wait behind them."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from support.eventually import eventually_async
from support.store.blocking import store_of
from umbel import Event, StartEvent, StopEvent, Workflow, step
from umbel.tasks.workflow.plan_builder import MOST_AT_ONCE

pytestmark = pytest.mark.usefixtures("runtime")


class Item(Event):
    n: int


class Done(Event):
    n: int


class Herd(Workflow):
    started: ClassVar[set[int]] = set()
    released = asyncio.Event()

    @step
    async def split(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(ev.size)]

    @step(num_workers=100_000)
    async def work(self, ev: Item) -> Done:
        self.started.add(ev.n)
        await self.released.wait()
        return Done(n=ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


async def test_a_large_fan_out_dispatches_only_a_part_of_its_members_at_a_time(runtime: Any) -> None:
    handler = Herd(timeout=None).run(size=2 * MOST_AT_ONCE)
    store = store_of(runtime)
    unclaimed = store.keys.of_run(handler.run_id)["unclaimed"]

    def dispatched() -> int:
        started = len(Herd.started)  # before the others: one that starts now is not counted twice
        return started + sum(handler.run_id.encode() in member for member in store.client.zrange(unclaimed, 0, -1))

    await eventually_async(lambda: dispatched() >= MOST_AT_ONCE, "its members are dispatched")

    assert dispatched() <= MOST_AT_ONCE
    Herd.released.set()
    assert await handler == 2 * MOST_AT_ONCE
