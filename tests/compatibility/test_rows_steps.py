"""Rows 18 to 20: how steps are declared, where they run, and their concurrency."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from support.runs import events_of
from umbel import Workflow, step
from umbel.errors import WorkflowValidationError
from umbel.events import Event, StartEvent, StepState, StepStateChanged, StopEvent


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


request: ContextVar[str] = ContextVar("request", default="none")


# -- 18, 19: methods, free functions, plain functions ------------------------------------------------------------------


@pytest.mark.row(18)
async def test_methods_and_free_functions_are_steps_of_one_workflow() -> None:
    class Mixed(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Item:
            return Item(n=1)

        @step()
        async def end(self, ev: Done) -> StopEvent:
            return StopEvent(result=ev.n)

    @step(workflow=Mixed)
    async def between(ev: Item) -> Done:
        return Done(n=ev.n + 1)

    assert await Mixed().run() == 2


@pytest.mark.row(18)
async def test_add_step_registers_a_decorated_function_once() -> None:
    class First(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="first")

    class Second(First):
        pass

    @step(workflow=Second)
    async def aside(ev: StartEvent) -> None: ...

    First.add_step(aside)

    async def undecorated(ev: StartEvent) -> None: ...

    assert sorted(First().steps) == ["aside", "go"]
    with pytest.raises(WorkflowValidationError, match="^A step aside is already part of this workflow"):
        First.add_step(aside)
    with pytest.raises(WorkflowValidationError, match="^Step function undecorated is missing the `@step` decorator"):
        First.add_step(undecorated)


@pytest.mark.row(18)
def test_free_functions_name_their_workflow_and_are_not_inherited() -> None:
    class Parent(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Child(Parent):
        pass

    @step(workflow=Parent)
    async def aside(ev: StartEvent) -> None: ...

    assert (sorted(Parent().steps), sorted(Child().steps)) == (["aside", "go"], ["go"])
    with pytest.raises(WorkflowValidationError, match="^To decorate nowhere please pass a workflow class"):

        @step
        async def nowhere(ev: StartEvent) -> None: ...


@pytest.mark.row(19)
async def test_plain_steps_run_beside_each_other_and_off_the_event_loop() -> None:
    both = threading.Barrier(2, timeout=20)
    threads: list[threading.Thread] = []

    class Blocking(Workflow):
        @step
        def left(self, ev: StartEvent) -> Item:
            threads.append(threading.current_thread())
            both.wait()  # continues only if the other step runs at the same time
            return Item()

        @step
        def right(self, ev: StartEvent) -> Done:
            threads.append(threading.current_thread())
            both.wait()
            return Done()

        @step
        def join(self, item: Item, done: Done) -> StopEvent:
            return StopEvent(result="both")

    assert await Blocking().run() == "both"
    assert len({*threads, threading.main_thread()}) == 3


@pytest.mark.row(19)
async def test_a_step_does_not_see_the_context_variables_of_its_runs_caller() -> None:
    request.set("of the caller")

    class Reads(Workflow):
        @step
        def plain(self, ev: StartEvent) -> Item:
            return Item(seen=request.get())

        @step
        async def on_a_loop(self, ev: Item) -> StopEvent:
            return StopEvent(result=[ev.seen, request.get()])

    assert await Reads().run() == ["none", "none"]


# -- 20: num_workers ---------------------------------------------------------------------------------------------------


@pytest.mark.row(20)
async def test_four_executions_of_a_step_run_at_once_within_one_run() -> None:
    running, most = 0, 0
    full = asyncio.Event()

    class Wide(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(9)]

        @step
        async def work(self, ev: Item) -> Done:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 4:
                full.set()
            await full.wait()
            running -= 1
            return Done()

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    handler = Wide().run()

    assert await handler == 9
    assert most == 4
    states = [state for state in await events_of(handler, StepStateChanged) if state.name == "work"]
    assert {state.worker_id for state in states if state.step_state is not StepState.PREPARING} == set("0123")
    assert [state.worker_id for state in states if state.step_state is StepState.PREPARING] == ["<enqueued>"] * 5


@pytest.mark.row(20)
async def test_events_beyond_num_workers_wait_in_their_order() -> None:
    order: list[int] = []

    class Narrow(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(12)]

        @step(num_workers=1)
        async def work(self, ev: Item) -> Done:
            order.append(ev.n)
            return Done()

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent()

    await Narrow().run()
    assert order == list(range(12))


@pytest.mark.row(20)
async def test_each_run_has_workers_of_its_own() -> None:
    both = asyncio.Barrier(2)

    class Alone(Workflow):
        @step(num_workers=1)
        async def work(self, ev: StartEvent) -> StopEvent:
            await both.wait()  # continues only if the other run's step is executing too
            return StopEvent(result="met")

    assert await asyncio.gather(Alone().run(), Alone().run()) == ["met", "met"]


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "2"])
@pytest.mark.row(20)
def test_num_workers_is_a_positive_integer(number: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="^num_workers must be an integer greater than 0"):

        @step(num_workers=number)
        async def go(self: Any, ev: StartEvent) -> StopEvent:
            return StopEvent()
