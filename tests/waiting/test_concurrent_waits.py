"""Concurrent waits of one step, in its own tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

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

Together = Callable[..., Awaitable[list[str]]]


async def gathered(*tools: Awaitable[str]) -> list[str]:
    return list(await asyncio.gather(*tools))


async def grouped(*tools: Awaitable[str]) -> list[str]:
    async def run(tool: Awaitable[str]) -> str:
        return await tool

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(tool)) for tool in tools]
    return [task.result() for task in tasks]


async def answered(handler: WorkflowHandler) -> list[str]:
    """Answer each question with its tool's name, and return what was asked."""
    asked = []
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            asked.append(event.tool)
            await handler.send_event(HumanResponseEvent(response=f"for {event.tool}"))
    return asked


@pytest.mark.parametrize("together", [gathered, grouped])
async def test_each_wait_gets_its_own_answer_in_whatever_order_the_tasks_begin(together: Together) -> None:
    executions: list[int] = []

    class Tools(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            executions.append(1)
            first_is_behind = len(executions) == 1

            async def tool(name: str, behind: bool) -> str:
                for _ in range(10 if behind else 0):
                    await asyncio.sleep(0)
                question = InputRequiredEvent(tool=name)
                return str((await ctx.wait_for_event(HumanResponseEvent, waiter_event=question)).response)

            return StopEvent(result=await together(tool("x", first_is_behind), tool("y", not first_is_behind)))

    handler = Tools().run()
    assert sorted(await answered(handler)) == ["x", "y"]
    assert await handler == ["for x", "for y"]


async def test_equal_waits_of_tasks_that_run_at_the_same_time_are_refused() -> None:
    class Twins(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def tool(name: str) -> str:
                return str((await ctx.wait_for_event(HumanResponseEvent)).response) + name

            return StopEvent(result=await gathered(tool("x"), tool("y")))

    handler = Twins().run()
    await handler.send_event(HumanResponseEvent(response="to whom"))
    with pytest.raises(WorkflowRuntimeError, match="same question and requirements.*waiter_id"):
        await handler


async def test_equal_waits_of_tasks_that_follow_each_other_are_counted() -> None:
    class Turns(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def turn() -> str:
                question = InputRequiredEvent(tool="x")
                return str((await ctx.wait_for_event(HumanResponseEvent, waiter_event=question)).response)

            return StopEvent(result=[(await gathered(turn()))[0] for _ in range(3)])

    handler = Turns().run()
    assert await answered(handler) == ["x", "x", "x"]
    assert await handler == ["for x"] * 3


async def test_a_task_group_that_waits_and_fails_fails_the_step_with_what_was_raised() -> None:
    class Both(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def fail() -> str:
                raise KeyError("gone wrong")

            async def wait() -> str:
                return str(await ctx.wait_for_event(HumanResponseEvent))

            return StopEvent(result=await grouped(wait(), fail()))

    with pytest.raises(Exception, match="unhandled errors in a TaskGroup"):
        await Both().run()
