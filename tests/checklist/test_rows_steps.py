"""Rows 18 to 26: how steps are declared, which events they are given, how many run at once, what they may return."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any, Optional, Union

import pytest

from umbel import Context, Workflow, catch_error, step
from umbel.errors import WorkflowRuntimeError, WorkflowValidationError
from umbel.events import (
    Event,
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowIdleEvent,
)
from umbel.handler import WorkflowHandler
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_none


class Item(Event):
    n: int = 0


class Special(Item):
    pass


class Done(Event):
    n: int = 0


class Go(HumanResponseEvent):
    pass


request: ContextVar[str] = ContextVar("request", default="none")


async def internal(handler: WorkflowHandler, cls: type[Any]) -> list[Any]:
    """All events of a class in the run's stream, umbel's own included."""
    return [event async for event in handler.stream_events(expose_internal=True) if type(event) is cls]


# -- 18, 19: methods, free functions, plain functions ------------------------------------------------------------------


async def test_row_18_methods_and_free_functions_are_steps_of_one_workflow() -> None:
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


async def test_row_18_add_step_registers_a_decorated_function_once() -> None:
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


def test_row_18_free_functions_name_their_workflow_and_are_not_inherited() -> None:
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


async def test_row_19_plain_steps_run_beside_each_other_and_off_the_event_loop() -> None:
    both = threading.Barrier(2, timeout=20)
    threads: list[threading.Thread] = []

    class Blocking(Workflow):
        @step
        def left(self, ev: StartEvent) -> Item:
            threads.append(threading.current_thread())
            both.wait()  # goes on only if the other step runs at the same time
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


async def test_row_19_a_step_does_not_see_the_context_variables_of_its_runs_caller() -> None:
    request.set("of the caller")

    class Reads(Workflow):
        @step
        def read(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=request.get())

    assert await Reads().run() == "none"


# -- 20: num_workers ---------------------------------------------------------------------------------------------------


async def test_row_20_four_executions_of_a_step_run_at_once_within_one_run() -> None:
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
    states = [state for state in await internal(handler, StepStateChanged) if state.name == "work"]
    assert {state.worker_id for state in states if state.step_state is not StepState.PREPARING} == set("0123")
    assert [state.worker_id for state in states if state.step_state is StepState.PREPARING] == ["<enqueued>"] * 5


async def test_row_20_events_beyond_num_workers_wait_in_their_order() -> None:
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


async def test_row_20_each_run_has_workers_of_its_own() -> None:
    both = asyncio.Barrier(2)

    class Alone(Workflow):
        @step(num_workers=1)
        async def work(self, ev: StartEvent) -> StopEvent:
            await both.wait()  # goes on only if the other run's step is at work too
            return StopEvent(result="met")

    assert await asyncio.gather(Alone().run(), Alone().run()) == ["met", "met"]


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "2"])
def test_row_20_num_workers_is_a_positive_integer(number: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="^num_workers must be an integer greater than 0"):

        @step(num_workers=number)
        async def go(self: Any, ev: StartEvent) -> StopEvent:
            return StopEvent()


# -- 21, 22, 23: routing -----------------------------------------------------------------------------------------------


class Exact(Workflow):
    """Emits a subclass of what `take` accepts; the run ends with what came first."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Special:
        ctx.send_event(Special(n=1))
        return Item(n=2)

    @step
    async def take(self, ev: Item) -> StopEvent:
        return StopEvent(result=ev.n)


async def test_row_21_events_go_by_their_exact_class_and_others_are_unhandled() -> None:
    handler = Exact(disable_validation=True).run()

    assert await handler == 2
    (unhandled,) = await internal(handler, UnhandledEvent)
    assert (unhandled.event_type, unhandled.qualified_name) == ("Special", f"{__name__}.Special")
    assert (unhandled.step_name, unhandled.idle) == (None, False)


async def test_row_22_a_step_may_accept_subclasses() -> None:
    class Any_(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Special:
            return Special(n=1)

        @step(accept_event_subclasses=True)
        async def take(self, ev: Item) -> StopEvent:
            return StopEvent(result=type(ev).__name__)

    assert await Any_().run() == "Special"


async def test_row_23_an_event_goes_to_every_step_that_accepts_it() -> None:
    class Broadcast(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Item:
            return Item(n=1)

        @step
        async def left(self, ev: Item) -> Done:
            return Done(n=ev.n)

        @step
        async def right(self, ev: Item) -> Special:
            return Special(n=ev.n)

        @step
        async def join(self, done: Done, special: Special) -> StopEvent:
            return StopEvent(result=[done.n, special.n])

    assert await Broadcast().run() == [1, 1]


# -- 24: annotations ---------------------------------------------------------------------------------------------------


async def test_row_24_unions_optionals_and_postponed_annotations_are_understood() -> None:
    class Local(Event):
        pass

    class Annotated(Workflow):
        @step
        async def optional(self, ev: Optional[StartEvent]) -> Optional[Item]:  # noqa: UP045
            return Item()

        @step
        async def old_union(self, ev: Union[Item, Special]) -> Union[Done, None]:  # noqa: UP007
            return Done()

        @step
        async def text(self, ev: "Done | Special") -> "Local":  # noqa: UP037
            return Local()

        @step
        async def of_the_function(self, ev: Local, ctx: Context) -> StopEvent:
            return StopEvent(result="through")

    assert await Annotated(disable_validation=True).run() == "through"


def test_row_24_a_name_that_cannot_be_resolved_is_named() -> None:
    with pytest.raises(WorkflowValidationError, match="Nonsense"):

        @step
        async def go(self: Any, ev: Nonsense) -> StopEvent:  # type: ignore[name-defined]  # noqa: F821
            return StopEvent()


def test_row_24_the_return_annotation_is_mandatory() -> None:
    with pytest.raises(
        WorkflowValidationError,
        match="^Return types of workflows step functions must be annotated with their type",
    ):

        @step
        async def go(self: Any, ev: StartEvent):  # type: ignore[no-untyped-def]
            return StopEvent()


# -- 25, 26: what a step returns ---------------------------------------------------------------------------------------


async def test_row_25_none_is_the_end_of_a_branch_and_not_of_the_run() -> None:
    class Quiet(Workflow):
        @step
        async def nothing(self, ev: StartEvent) -> None:
            return None

        @step
        async def answered(self, ev: Go) -> StopEvent:
            return StopEvent(result="later")

    handler = Quiet().run()
    async for event in handler.stream_events(expose_internal=True):
        if isinstance(event, WorkflowIdleEvent):
            await handler.send_event(Go())

    assert await handler == "later"


@pytest.mark.parametrize("returned", ["done", 5, [Item()], (Item(),), Item])
async def test_row_25_what_is_no_event_fails_the_step(returned: Any) -> None:
    class Wrong(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return returned  # type: ignore[no-any-return]

    text = f"Step function go returned {type(returned).__name__} instead of an Event instance."
    with pytest.raises(WorkflowRuntimeError) as caught:
        await Wrong().run()
    assert str(caught.value).startswith(text)


async def test_row_25_such_a_failure_is_retried_and_caught_as_any_other() -> None:
    attempts: list[int] = []

    class Wrong(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempts.append(ctx.retry_info().retry_number)
            return "done"  # type: ignore[return-value]

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=str(ev.exception))

    assert await Wrong().run() == "Step function go returned str instead of an Event instance."
    assert attempts == [0, 1]


async def test_row_26_the_first_stop_event_ends_the_run_and_its_other_steps() -> None:
    held, stopped = asyncio.Event(), asyncio.Event()

    class Race(Workflow):
        @step
        async def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            held.set()
            try:
                await asyncio.Event().wait()
            finally:
                ctx.write_event_to_stream(Done())
                stopped.set()
            return StopEvent(result="slow")

        @step
        async def quick(self, ev: StartEvent) -> StopEvent:
            await held.wait()
            return StopEvent(result="quick")

    handler = Race().run()

    assert await handler == "quick"
    await asyncio.wait_for(stopped.wait(), 20)
    assert [type(event) async for event in handler.stream_events()] == [StopEvent]
    assert await handler == "quick"
