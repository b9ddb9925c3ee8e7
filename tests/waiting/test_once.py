"""`ctx.once`: a step computes a value once, however often it is executed."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest
from pydantic import BaseModel

from support.store.blocking import store_of
from umbel import (
    Context,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    UnserializableValue,
    Workflow,
    WorkflowRuntimeError,
    step,
)
from umbel.plugins import BasicRuntime
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Bill(BaseModel):
    number: int
    due: date


async def test_what_stands_above_a_wait_is_not_done_twice(runtime: BasicRuntime) -> None:
    made: list[str] = []

    async def charge() -> Bill:
        made.append("charge")
        return Bill(number=7, due=date(2026, 12, 1))

    def book() -> str:
        made.append("book")
        return "booked"

    class Order(Workflow):
        @step
        async def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
            bill = await ctx.once("charge", charge)
            booked = await ctx.once("book", book)
            answer = await ctx.wait_for_event(HumanResponseEvent)
            return StopEvent(result=[bill, booked, answer.response])

    handler = Order().run()
    await handler.send_event(HumanResponseEvent(response="yes"))
    assert await handler == [Bill(number=7, due=date(2026, 12, 1)), "booked", "yes"]
    assert made == ["charge", "book"]
    assert store_of(runtime).client.exists(runtime.store.locate(handler.run_id)["collect"]) == 0


async def test_a_failed_attempt_keeps_its_values_for_the_next_one(runtime: BasicRuntime) -> None:
    made: list[int] = []

    class Flaky(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            value = await ctx.once("value", lambda: made.append(ctx.attempt) or ctx.attempt)
            if ctx.attempt < 3:
                raise OSError("again")
            return StopEvent(result=[value, ctx.attempt])

    assert await Flaky().run() == [1, 3]
    assert made == [1]


async def test_a_function_that_raises_is_called_again(runtime: BasicRuntime) -> None:
    made: list[int] = []

    class Flaky(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            def compute() -> int:
                made.append(ctx.attempt)
                if ctx.attempt == 1:
                    raise OSError("again")
                return ctx.attempt

            return StopEvent(result=await ctx.once("value", compute))

    assert await Flaky().run() == 2
    assert made == [1, 2]


async def test_tasks_of_a_step_that_ask_for_the_same_at_once_share_one_call(runtime: BasicRuntime) -> None:
    made: list[int] = []

    class Shared(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def compute() -> int:
                made.append(1)
                await asyncio.sleep(0)
                return len(made)

            return StopEvent(result=await asyncio.gather(*(ctx.once("value", compute) for _ in range(5))))

    assert await Shared().run() == [1] * 5


async def test_executions_of_one_step_for_different_events_share_nothing(runtime: BasicRuntime) -> None:
    class Each(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.once("value", lambda: ctx.idempotency_key))

    assert await Each().run() != await Each().run()


async def test_a_value_that_cannot_be_kept_is_refused_with_its_key(runtime: BasicRuntime) -> None:
    class Odd(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.once("socket", lambda: object()))

    with pytest.raises(UnserializableValue, match=r"ctx.once\('socket', …\) of step 'go'"):
        await Odd().run()


async def test_a_key_that_cannot_be_kept_is_refused_before_anything_is_done(runtime: BasicRuntime) -> None:
    made: list[str] = []

    class Keyed(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(WorkflowRuntimeError, match=r"once\(\) of step 'go'"):
                await ctx.once("\ud800", lambda: made.append("x"))
            for key in (float("nan"), "\ud800", object()):
                with pytest.raises(UnserializableValue, match=r"collect_events\(\) of step 'go' .* key cannot be kept"):
                    ctx.collect_events(ev, [StartEvent], key=key)
            return StopEvent(result=made)

    assert await Keyed().run() == []


async def test_a_function_that_would_wait_for_itself_is_refused(runtime: BasicRuntime) -> None:
    class Circle(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def again() -> int:
                return await ctx.once("a", lambda: 1)

            other = await ctx.once("b", again)
            with pytest.raises(WorkflowRuntimeError, match="would wait for itself"):
                await ctx.once("c", lambda: ctx.once("c", lambda: 2))
            return StopEvent(result=[other, await ctx.once("c", lambda: 3)])

    assert await Circle().run() == [1, 3]
