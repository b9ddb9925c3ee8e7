"""Waits that do not unwind the step, because its code made values of them or swallowed them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from support.eventually import eventually_async
from umbel import (
    Context,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    step,
)
from umbel.handler import WorkflowHandler

pytestmark = pytest.mark.usefixtures("runtime")


class Leaf(Workflow):
    @step
    async def grow(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.n)


async def asked(ctx: Context, tool: str) -> str:
    return str((await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(tool=tool))).response)


async def answered(handler: WorkflowHandler) -> list[str]:
    """Answer each question with its tool's name, and return what was asked."""
    found = []
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            found.append(event.tool)
            await handler.send_event(HumanResponseEvent(response=f"for {event.tool}"))
    return found


async def test_waits_gathered_with_exceptions_as_results_are_waits() -> None:
    class Gathering(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            found = await asyncio.gather(asked(ctx, "x"), ctx.sleep(0.01), asked(ctx, "y"), return_exceptions=True)
            return StopEvent(result=found)

    handler = Gathering(timeout=None).run()
    assert await answered(handler) == ["x", "y"]
    assert await handler == ["for x", None, "for y"]


async def test_child_runs_gathered_with_exceptions_as_results_all_run_at_once() -> None:
    class Gathering(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            found = await asyncio.gather(*[ctx.run(Leaf(), n=n) for n in range(3)], return_exceptions=True)
            return StopEvent(result=found)

    handler = Gathering(timeout=None).run()
    assert await handler == [0, 1, 2]
    assert [point.kind for point in handler.history()].count("claim") == 2


async def test_a_step_that_takes_a_wait_for_a_result_and_fails_with_it_waits() -> None:
    class Gathering(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            wait = ctx.wait_for_event(HumanResponseEvent)
            found: list[Any] = await asyncio.gather(wait, fail(), return_exceptions=True)
            answers = [each for each in found if not isinstance(each, Exception)]
            return StopEvent(result=[str(each.response) for each in answers])

    async def fail() -> None:
        raise KeyError("gone")

    handler = Gathering(timeout=None).run()
    await handler.send_event(HumanResponseEvent(response="yes"))
    assert await handler == ["yes"]


async def test_a_wait_that_a_step_swallows_is_a_wait() -> None:
    class Swallowing(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            found = "nothing"
            with suppress(BaseException):
                found = await asked(ctx, "x")
            return StopEvent(result=found)

    handler = Swallowing(timeout=None).run()
    assert await answered(handler) == ["x"]
    assert await handler == "for x"


async def test_a_plain_step_that_swallows_a_wait_waits() -> None:
    class Swallowing(Workflow):
        @step
        def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                return StopEvent(result=asyncio.run(asked(ctx, "x")))
            except BaseException as error:
                return StopEvent(result=repr(error))

    handler = Swallowing(timeout=None).run()
    assert await answered(handler) == ["x"]
    assert await handler == "for x"


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_step_goes_on_without_a_task_of_its_own_that_it_does_not_look_at_again(
    cancels: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Racing(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def wait_and_clear_up() -> None:
                try:
                    await ctx.wait_for_event(HumanResponseEvent)
                finally:
                    if cancels:
                        await asyncio.Event().wait()

            waiting = asyncio.create_task(wait_and_clear_up())
            worked = await asyncio.create_task(asyncio.sleep(0, "worked"))  # the other task has begun before this one
            if cancels:
                waiting.cancel()
                await asyncio.wait({waiting})
            return StopEvent(result=worked)

    caplog.set_level(logging.WARNING, "umbel.steps")
    assert await Racing(timeout=None).run() == "worked"
    said = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "wait_not_begun"]
    assert len(said) == (0 if cancels else 1)
    assert all("without looking at a task that waits for HumanResponseEvent" in each for each in said)


async def test_a_step_that_fails_beside_a_wait_fails() -> None:
    class Failing(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def fail() -> None:
                raise KeyError("gone wrong")

            await asyncio.gather(fail(), asked(ctx, "x"))
            return StopEvent()

    with pytest.raises(KeyError, match="gone wrong"):
        await Failing(timeout=None).run()


async def test_a_step_that_waits_with_the_context_of_another_step_execution_fails() -> None:
    kept: list[Context] = []

    class Leaky(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            kept.append(ctx)
            return StopEvent(result=await asked(kept[0], "x"))

    first = Leaky(timeout=None).run()
    await eventually_async(lambda: kept, "it has begun")
    with pytest.raises(WorkflowRuntimeError, match="waits with the ctx of another step execution"):
        await Leaky(timeout=None).run()
    await first.cancel()
