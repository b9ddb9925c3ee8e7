"""A run with much unfinished work is rewound in parts: the result equals that of a single script."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

import pytest

import umbel
from support.eventually import eventually
from umbel import Collect, Context, Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.errors import RunEnded
from umbel.orchestration.history.forks import going_on
from umbel.orchestration.snapshots import restore
from umbel.plugins import BasicRuntime
from umbel.retry_policy import stop_after_attempt, wait_fixed

pytestmark = pytest.mark.usefixtures("runtime")


class Begin(StartEvent):
    amount: int


class Part(Event):
    n: int


class Half(Event):
    n: int


class Other(Event):
    n: int


class Mixed(Workflow):
    """Members of a fan-out that wait, are delayed, are joined, are collected, and wait for a slot."""

    @step
    async def split(self, ev: Begin) -> list[Part]:
        return [Part(n=n) for n in range(ev.amount)]

    @step(num_workers=20, retry_policy=retry_policy(wait=wait_fixed(0.3), stop=stop_after_attempt(2)))
    async def work(self, ctx: Context[Any], ev: Part) -> Half | Other | None:
        if ev.n % 5 == 0 and ctx.attempt == 1:
            ctx.send_event(Other(n=ev.n))
            raise ValueError("later")
        if ev.n % 3 == 0:
            await ctx.wait_for_event(HumanResponseEvent, waiter_id=f"{ev.n}", timeout=600)
        if ev.n % 5 == 1:
            return Other(n=ev.n)
        return Half(n=ev.n)

    @step
    async def gather(self, ctx: Context[Any], ev: Other) -> None:
        ctx.collect_events(ev, [Other] * 1000, key=str(ev.n % 4))

    @step
    async def join(self, evs: Annotated[list[Half], Collect()]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


def has_ended(handler: umbel.WorkflowHandler) -> bool:
    with suppress(RunEnded):
        handler.send_event(HumanResponseEvent(response="yes"))
    return handler.status() == "completed"


async def test_what_was_put_back_in_parts_is_what_one_script_puts(
    runtime: BasicRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Mixed().run(amount=30)

    def all_waits() -> list[umbel.Point]:
        points = [*handler.history(kinds=["commit"])]
        return points if sum(point.outcome == "suspended" for point in points) == 10 else []

    points = await asyncio.to_thread(eventually, all_waits, "all that wait do")
    for module in (going_on, restore):
        monkeypatch.setattr(module, "PART", 7)
    for place in (len(points) // 2, 1, -1):
        point = await handler.at(points[place].seq)

        await handler.rewind(point, stop_running=True)

        verified = await handler.verify()
        assert verified.holds, "\n".join(map(str, verified.differences))
        [*_, rewound] = [each.seq async for each in handler.history(kinds=["rewind"])]
        again = (await handler.at(rewound)).work()
        assert sorted(item.work_id for item in again.items) == sorted(item.work_id for item in point.work().items)
        assert len(again.waiters) == len(point.work().waiters)

    await asyncio.to_thread(eventually, lambda: has_ended(handler), "all that waits is answered")
    assert await handler == [n for n in range(30) if n % 5 != 1]
    assert (await handler.verify()).holds
    prefix = runtime.store.settings.key_prefix
    keys = await asyncio.to_thread(
        runtime.portal.call, runtime.store.command("look", "KEYS", f"{prefix}:*rebuilt:*{handler.run_id}*")
    )
    assert not keys
