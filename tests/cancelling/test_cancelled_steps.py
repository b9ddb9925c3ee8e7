"""Cancelling single steps while their run continues."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest

from support.eventually import eventually_async
from umbel import (
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StepCancelled,
    StepFailedEvent,
    StopEvent,
    Take,
    Workflow,
    WorkflowRuntimeError,
    WorkflowStepDoesNotExistError,
    attach,
    catch_error,
    step,
)
from umbel.errors import RunNotFound
from umbel.plugins import BasicRuntime

pytestmark = pytest.mark.usefixtures("runtime")


class Task(Event):
    n: int


class Slow(Event):
    n: int


class Done(Event):
    n: int


class Gates:
    """Steps that have begun and continue when their gate opens."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.open = asyncio.Event()

    async def pass_through(self, n: int) -> None:
        self.begun.append(n)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(n)
            raise
        self.ended.append(n)


def fan_of(gates: Gates) -> type[Workflow]:
    class Fan(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=n) for n in range(ev.n)]

        @step(num_workers=2)
        async def work(self, ev: Task) -> Done:
            await gates.pass_through(ev.n)
            return Done(n=ev.n)

        @step
        async def gather(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    return Fan


async def test_running_and_queued_executions_are_cancelled_and_the_fan_in_gets_the_rest() -> None:
    gates = Gates()
    handler = fan_of(gates)().run(n=6)
    await eventually_async(lambda: len(gates.begun) == 2, "two have begun")

    assert await handler.cancel_step("work") == 6

    assert await handler == []
    await eventually_async(lambda: sorted(gates.cancelled) == sorted(gates.begun), "both are cancelled")
    assert gates.ended == []


async def test_only_executions_whose_event_has_these_fields_are_cancelled() -> None:
    gates = Gates()
    handler = fan_of(gates)().run(n=5)
    await eventually_async(lambda: len(gates.begun) == 2, "two have begun")

    assert await handler.cancel_step("work", where={"n": 0}) == 1
    assert await handler.cancel_step("work", where={"n": 4}, reason="not wanted") == 1
    assert await handler.cancel_step("work", where={"n": 4}) == 0
    gates.open.set()

    assert await handler == [1, 2, 3]
    cancelled = [e async for e in handler.stream_events(expose_internal=True) if isinstance(e, StepCancelled)]
    assert [(event.step, event.reason) for event in cancelled] == [("work", ""), ("work", "not wanted")]


async def test_another_event_goes_on_instead() -> None:
    gates = Gates()
    handler = fan_of(gates)().run(n=3)
    await eventually_async(lambda: len(gates.begun) == 2, "two have begun")

    assert await handler.cancel_step("work", where={"n": 1}, instead=Done(n=100)) == 1
    gates.open.set()

    assert await handler == [0, 2, 100]


async def test_a_step_that_waits_for_an_event_or_for_children_is_cancelled_with_what_it_waits_for() -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)

    class Parent(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Task | Slow]:
            return [Task(n=1), Slow(n=2)]

        @step
        async def wait(self, ctx: Context, ev: Task) -> Done:
            await ctx.wait_for_event(HumanResponseEvent)
            return Done(n=1)

        @step
        async def child(self, ctx: Context, ev: Slow) -> Done:
            return Done(n=await ctx.run(Asks(), id="cancelled-child"))

        @step
        async def gather(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    def waits() -> bool:
        try:
            return attach("cancelled-child").status() == "running"
        except RunNotFound:
            return False

    handler = Parent().run()
    await eventually_async(waits, "the child goes on")
    assert await handler.cancel_step("wait") == 1
    assert await handler.cancel_step("child") == 1
    assert await handler == 0
    await eventually_async(lambda: attach("cancelled-child").status() == "cancelled", "the child is cancelled")


async def test_a_handler_of_failures_is_not_asked() -> None:
    gates = Gates()

    class Careful(fan_of(gates)):  # type: ignore[misc]
        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="rescued")

    handler = Careful().run(n=1)
    await eventually_async(lambda: gates.begun, "it has begun")
    await handler.cancel_step("work")
    assert await handler == []


async def test_a_step_cancels_others_and_what_it_has_sent() -> None:
    gates = Gates()

    class Sender(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Task | StopEvent:
            kept, taken_back = ctx.send_event(Task(n=1)), ctx.send_event(Task(n=2))
            assert kept is not None
            assert taken_back is not None
            assert taken_back.cancel() == 1
            await eventually_async(lambda: 1 in gates.begun, "what was kept has begun")  # and perhaps the other one
            assert ctx.cancel_step("work", where={"n": 7}) == 0
            assert ctx.cancel_step("work") == 1
            assert ctx.cancel_step("begin") == 0
            return StopEvent()

        @step
        async def work(self, ev: Task) -> StopEvent:
            await gates.pass_through(ev.n)
            return StopEvent()

    await Sender().run()
    await eventually_async(lambda: sorted(gates.cancelled) == sorted(gates.begun), "each that had begun is cancelled")


async def test_what_has_followed_is_cancelled_where_that_is_asked_for() -> None:
    gates = Gates()

    class Chain(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Task]:
            return [Task(n=1), Task(n=2)]

        @step
        async def first(self, ev: Task) -> Slow:
            return Slow(n=ev.n)

        @step
        async def second(self, ev: Slow) -> Done:
            await gates.pass_through(ev.n)
            return Done(n=ev.n)

        @step
        async def gather(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    handler = Chain().run()
    await eventually_async(lambda: len(gates.begun) == 2, "both have come to the second step")
    assert await handler.cancel_step("first") == 0
    assert await handler.cancel_step("first", downstream=True) == 2
    assert await handler == 0


async def test_a_step_that_there_is_not_and_a_run_that_has_ended_are_refused() -> None:
    gates = Gates()
    gates.open.set()
    handler = fan_of(gates)().run(n=1)
    with pytest.raises(WorkflowStepDoesNotExistError, match="Its steps: begin, gather, work"):
        await handler.cancel_step("wrk")
    await handler
    assert await handler.cancel_step("work") == 0


def test_a_handler_without_an_event_loop_cancels_too(runtime: BasicRuntime) -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)

    handler = Asks().run()
    cancelled = handler.cancel_step("ask")
    assert bool(cancelled)
    handler.cancel()
    with pytest.raises(WorkflowRuntimeError):
        handler.send_event(HumanResponseEvent(response="late"))


async def test_a_race_cancels_those_that_have_not_arrived() -> None:
    gates = Gates()

    class Race(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Task | Slow]:
            return [Task(n=1), Slow(n=2), Slow(n=3)]

        @step
        async def quick(self, ev: Task) -> Done:
            await eventually_async(lambda: len(gates.begun) == 2, "the others have begun")
            return Done(n=ev.n)

        @step
        async def slow(self, ev: Slow) -> Done:
            await gates.pass_through(ev.n)
            return Done(n=ev.n)

        @step
        async def winner(self, evs: Annotated[list[Done], Collect(Take(1), cancel_rest=True)]) -> StopEvent:
            await eventually_async(lambda: sorted(gates.cancelled) == [2, 3], "the others are cancelled")
            return StopEvent(result=[ev.n for ev in evs])

    assert await Race().run() == [1]
