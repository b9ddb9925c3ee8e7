"""Failures and their consequences: retry policies, delays, what an attempt knows, `@catch_error`."""

from __future__ import annotations

import asyncio

import pytest

from umbel import (
    Context,
    Event,
    StartEvent,
    StepFailedEvent,
    StepTimeoutError,
    StopEvent,
    Workflow,
    catch_error,
    retry_policy,
    step,
)
from umbel.tasks.retry.policy import stop_after_attempt, wait_fixed

pytestmark = pytest.mark.usefixtures("runtime")


class Item(Event):
    n: int


async def test_a_retry_policy_decides_how_often_a_step_is_tried() -> None:
    attempts: list[int] = []

    class Flaky(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempts.append(ctx.attempt)
            if ctx.attempt < 3:
                raise ConnectionError(f"attempt {ctx.attempt}")
            info = ctx.retry_info()
            return StopEvent(result=(info.retry_number, str(info.last_exception)))

    assert await Flaky().run() == (2, "attempt 2")
    assert attempts == [1, 2, 3]


async def test_the_last_failure_is_what_the_caller_sees() -> None:
    class Hopeless(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0.05), stop=stop_after_attempt(2)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise LookupError(f"attempt {ctx.attempt}")

    with pytest.raises(LookupError, match="attempt 2"):
        await Hopeless().run()


async def test_a_delayed_attempt_holds_no_slot() -> None:
    order: list[str] = []

    class Patient(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(0.5), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: Item) -> Item | None:
            order.append(f"{ev.n}.{ctx.attempt}")
            if ev.n == 0 and ctx.attempt == 1:
                raise ValueError("again")
            return None

        @step
        async def join(self, evs: list[Item]) -> StopEvent:
            return StopEvent()

    class Through(Patient):
        @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(0.5), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            await Patient.work(self, ctx, ev)
            return None

    await Through().run()
    assert order == ["0.1", "1.1", "0.2"]


async def test_a_time_limit_is_a_failure_that_the_policy_sees() -> None:
    class Limited(Workflow):
        @step(timeout=0.2, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                await asyncio.sleep(60)
            return StopEvent(result=type(ctx.retry_info().last_exception).__name__)

    assert await Limited().run() == StepTimeoutError.__name__


async def test_a_final_failure_goes_to_the_handler_that_covers_the_step() -> None:
    class Caught(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise KeyError("lost")

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            assert isinstance(ev.input_event, StartEvent)
            return StopEvent(result=[ev.step_name, type(ev.exception).__name__, ev.attempts, ev.input_event.get("x")])

    assert await Caught().run(x=7) == ["go", "KeyError", 1, 7]


async def test_the_same_lineage_is_rescued_only_as_often_as_allowed() -> None:
    class Stubborn(Workflow):
        @step
        async def go(self, ev: StartEvent | Item) -> StopEvent:
            raise ValueError("still broken")

        @catch_error(max_recoveries=1)
        async def again(self, ev: StepFailedEvent) -> Item:
            return Item(n=1)

    with pytest.raises(ValueError, match="still broken"):
        await Stubborn().run()


async def test_events_sent_before_a_failure_are_delivered_once_over_all_attempts() -> None:
    class Once(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def go(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=1))
            ctx.send_event(Item(n=1))
            if ctx.attempt < 3:
                raise ValueError("after sending")
            ctx.send_event(Item(n=2))
            return None

        @step(num_workers=1)
        async def count(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item] * 3)
            return None if got is None else StopEvent(result=sorted(item.n for item in got))

    assert await Once().run() == [1, 1, 2]
