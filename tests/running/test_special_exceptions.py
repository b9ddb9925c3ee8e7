"""Exceptions that asyncio, futures or generators treat specially end a step like any other exception."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable

import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate

from umbel import (
    Context,
    HumanResponseEvent,
    InputRequiredEvent,
    RunClosed,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    step,
)

pytestmark = pytest.mark.usefixtures("runtime")


class Abort(SystemExit):
    """As programs that end themselves derive it."""


#: What a step raises, and the class that `@catch_error` receives.
RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "StopIteration": (StopIteration, "StopIteration"),
    "StopAsyncIteration": (StopAsyncIteration, "StopAsyncIteration"),
    "futures.CancelledError": (concurrent.futures.CancelledError, "CancelledError"),
    "futures.InvalidStateError": (concurrent.futures.InvalidStateError, "InvalidStateError"),
    "futures.BrokenExecutor": (concurrent.futures.BrokenExecutor, "BrokenExecutor"),
    "asyncio.InvalidStateError": (asyncio.InvalidStateError, "InvalidStateError"),
    "asyncio.IncompleteReadError": (lambda: asyncio.IncompleteReadError(b"x", 5), "IncompleteReadError"),
    "TimeoutError": (TimeoutError, "TimeoutError"),
    "asyncio.CancelledError": (asyncio.CancelledError, "StepExit"),
    "GeneratorExit": (GeneratorExit, "StepExit"),
    "KeyboardInterrupt": (KeyboardInterrupt, "StepExit"),
    "SystemExit": (lambda: SystemExit(2), "StepExit"),
    "a subclass of SystemExit": (lambda: Abort("enough"), "StepExit"),
    "WorkerShutdown": (lambda: WorkerShutdown(1), "StepExit"),
    "WorkerTerminate": (lambda: WorkerTerminate(1), "StepExit"),
    "BaseExceptionGroup": (lambda: BaseExceptionGroup("group", [GeneratorExit()]), "StepExit"),
}


class Caught(Workflow):
    @catch_error
    async def caught(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=[type(ev.exception).__name__, type(ev.exception).__module__, str(ev.exception)])


class Plain(Caught):
    @step
    def work(self, ev: StartEvent) -> StopEvent:
        raise RAISED[ev.name][0]()


class Async(Caught):
    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        raise RAISED[ev.name][0]()


@pytest.mark.parametrize("name", RAISED)
async def test_a_plain_step_that_raises_it_fails_with_it(name: str) -> None:
    made, expected = RAISED[name]

    found, module, text = await Plain(timeout=20).run(name=name)

    assert found == expected
    if expected == "StepExit":
        assert "'work'" in text
    else:
        assert module == type(made()).__module__


@pytest.mark.parametrize("name", RAISED)
async def test_an_async_step_that_raises_it_fails_with_it(name: str) -> None:
    made, expected = RAISED[name]

    found, module, text = await Async(timeout=20).run(name=name)

    if name == "StopIteration":  # Python itself replaces it
        assert (found, text) == ("RuntimeError", "coroutine raised StopIteration")
    else:
        assert found == expected
        assert expected == "StepExit" or module == type(made()).__module__


def test_an_empty_iterator_in_a_plain_step_reaches_the_caller() -> None:
    class Empty(Workflow):
        @step(timeout=5)
        def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=next(iter([])))

    with pytest.raises(StopIteration):
        Empty(timeout=20).start().result(timeout=30)


async def test_waits_in_a_task_group_wait() -> None:
    class Grouped(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with asyncio.TaskGroup() as group:
                answer = group.create_task(
                    ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(), waiter_id="one")
                )
            return StopEvent(result=answer.result().response)

    handler = Grouped(timeout=20).run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="yes"))

    assert await handler == "yes"


async def test_a_step_that_raises_run_closed_itself_fails_with_it() -> None:
    class Raising(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise RunClosed("the other one has ended")

    with pytest.raises(RunClosed, match="the other one has ended"):
        await Raising(timeout=None).run()


async def test_a_step_that_writes_through_the_context_of_a_run_that_has_ended_fails() -> None:
    kept: list[Context] = []

    class Leaky(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            kept.append(ctx)
            await kept[0].store.set("last", ev.n)
            return StopEvent(result=ctx.run_id)

    first = Leaky(timeout=None).run(n=1)
    assert await first == first.run_id
    second = Leaky(timeout=None).run(n=2)

    with pytest.raises(RunClosed, match=f"ctx.store of run '{first.run_id}' was not written by step 'work'"):
        await second
    assert second.status() == "failed"
