"""Rows 21 to 26: which events a step receives, and what it may return."""

from __future__ import annotations

import asyncio
from typing import Any, Optional, Union

import pytest

from support.runs import events_of, idle
from umbel import Context, Workflow, catch_error, step
from umbel.errors import WorkflowRuntimeError, WorkflowValidationError
from umbel.events import (
    Event,
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    UnhandledEvent,
)
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_none


class Item(Event):
    n: int = 0


class Special(Item):
    pass


class Done(Event):
    n: int = 0


class Go(HumanResponseEvent):
    pass


# -- 21, 22, 23: routing -----------------------------------------------------------------------------------------------


class Exact(Workflow):
    """Emits a subclass of what `take` accepts; the run ends with whichever arrives first."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Special:
        ctx.send_event(Special(n=1))
        return Item(n=2)

    @step
    async def take(self, ev: Item) -> StopEvent:
        return StopEvent(result=ev.n)


@pytest.mark.row(21)
async def test_events_go_by_their_exact_class_and_others_are_unhandled() -> None:
    handler = Exact(disable_validation=True).run()

    assert await handler == 2
    (unhandled,) = await events_of(handler, UnhandledEvent)
    assert (unhandled.event_type, unhandled.qualified_name) == ("Special", f"{__name__}.Special")
    assert (unhandled.step_name, unhandled.idle) == (None, False)


@pytest.mark.row(22)
async def test_a_step_may_accept_subclasses() -> None:
    class Any_(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Special:
            return Special(n=1)

        @step(accept_event_subclasses=True)
        async def take(self, ev: Item) -> StopEvent:
            return StopEvent(result=type(ev).__name__)

    assert await Any_().run() == "Special"


@pytest.mark.row(23)
async def test_an_event_goes_to_every_step_that_accepts_it() -> None:
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


@pytest.mark.row(24)
async def test_unions_optionals_and_postponed_annotations_are_understood() -> None:
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


@pytest.mark.row(24)
async def test_a_parameter_may_be_of_the_root_class() -> None:
    class Bare(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Event:
            return Event(n=1)

        @step
        async def end(self, ev: Event) -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Bare().run() == 1


@pytest.mark.row(24)
def test_a_name_that_cannot_be_resolved_is_named() -> None:
    with pytest.raises(WorkflowValidationError, match="Nonsense"):

        @step
        async def go(self: Any, ev: Nonsense) -> StopEvent:  # type: ignore[name-defined]  # noqa: F821
            return StopEvent()


@pytest.mark.row(24)
def test_the_return_annotation_is_mandatory() -> None:
    with pytest.raises(
        WorkflowValidationError,
        match="^Return types of workflows step functions must be annotated with their type",
    ):

        @step
        async def go(self: Any, ev: StartEvent):  # type: ignore[no-untyped-def]
            return StopEvent()


# -- 25, 26: return values of steps ------------------------------------------------------------------------------------


@pytest.mark.row(25)
async def test_none_is_the_end_of_a_branch_and_not_of_the_run() -> None:
    class Quiet(Workflow):
        @step
        async def nothing(self, ev: StartEvent) -> None:
            return None

        @step
        async def answered(self, ev: Go) -> StopEvent:
            return StopEvent(result="later")

    handler = Quiet().run()
    await idle(handler)
    await handler.send_event(Go())

    assert await handler == "later"


@pytest.mark.parametrize("returned", ["done", 5, [Item()], (Item(),), Item])
@pytest.mark.row(25)
async def test_what_is_no_event_fails_the_step(returned: Any) -> None:
    class Wrong(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return returned  # type: ignore[no-any-return]

    text = f"Step function go returned {type(returned).__name__} instead of an Event instance."
    with pytest.raises(WorkflowRuntimeError) as caught:
        await Wrong().run()
    assert str(caught.value).startswith(text)


@pytest.mark.row(25)
async def test_such_a_failure_is_retried_and_caught_as_any_other() -> None:
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


@pytest.mark.row(26)
async def test_the_first_stop_event_ends_the_run_and_its_other_steps() -> None:
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


@pytest.mark.row(26)
async def test_a_stop_event_that_is_sent_and_not_returned_ends_nothing() -> None:
    class Sends(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item:
            ctx.send_event(StopEvent(result="sent"))
            return Item()

        @step
        async def end(self, ev: Item) -> StopEvent:
            return StopEvent(result="returned")

    handler = Sends().run()

    assert await handler == "returned"
    assert [event.event_type for event in await events_of(handler, UnhandledEvent)] == ["StopEvent"]
