"""Errors between a step's end and its commit are limited: they are charged, or are a failure that names the cause."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from support.flows.renewed import Renewed
from support.processes.driving import Deploy
from umbel import Context, Event, StartEvent, StepFailedEvent, StopEvent, Workflow, catch_error, step
from umbel.orchestration.model.durations import LONGEST_SECONDS
from umbel.orchestration.model.errors import WorkflowRuntimeError, WorkflowValidationError
from umbel.tasks.events.codec import EventMismatch

pytestmark = pytest.mark.usefixtures("runtime")


class Item(Event):
    text: str


async def failure_of(workflow: Workflow) -> Exception:
    with pytest.raises(Exception) as failed:  # noqa: PT011
        await asyncio.wait_for(workflow.run(), 40)
    return failed.value


async def test_a_failure_too_large_for_its_catch_error_step_fails_the_run_with_both() -> None:
    caught: list[str] = []

    class Large(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(text="x" * 10_000) for _ in range(2_000)]

        @step
        async def join(self, evs: list[Item]) -> StopEvent:
            raise LookupError("not there")

        @catch_error
        async def caught(self, ev: StepFailedEvent) -> StopEvent:
            caught.append(ev.step_name)
            return StopEvent()

    error = await failure_of(Large())
    assert isinstance(error, LookupError)
    assert str(error) == "not there"
    [note] = error.__notes__
    assert "no @catch_error step could be given this failure: PayloadTooLarge" in note
    assert caught == []


def test_an_event_that_no_longer_fits_its_class_fails_the_run_also_with_a_catch_error_step(deploy: Deploy) -> None:
    deployment = deploy()
    flows = "support.flows.renewed"
    deployment.worker("old", flows, pool="asyncio", queues="umbel").wait_ready()
    handler = deployment.start(Renewed)
    deployment.worker("new", flows, pool="asyncio", queues="later", more={"RENEWED": "1"}).wait_ready()

    with pytest.raises(EventMismatch, match=r"(?s)Changed.*more.*Field required"):
        handler.result(40)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e300, LONGEST_SECONDS + 1, "1"])
async def test_a_wait_that_no_timer_can_hold_is_refused_where_it_is_asked_for(timeout: Any) -> None:
    class Waits(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Item, timeout=timeout)
            return StopEvent()

    error = await failure_of(Waits())
    assert isinstance(error, WorkflowRuntimeError)
    assert f"cannot wait {timeout!r} s for an Item" in str(error)
    with pytest.raises(WorkflowValidationError, match="timeout must be a number of seconds"):
        Waits(timeout=timeout)


@pytest.mark.parametrize("delay", [float("inf"), float("nan"), 1e17, 1e300])
async def test_a_retry_delay_that_no_timer_can_hold_fails_the_step_and_says_so(delay: float) -> None:
    class Policy:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float:
            return delay

    class Retried(Workflow):
        @step(retry_policy=Policy())
        async def go(self, ev: StartEvent) -> StopEvent:
            raise LookupError

    error = await failure_of(Retried())
    assert isinstance(error, WorkflowRuntimeError)
    assert f"returned {delay!r} for failure 1 (LookupError)" in str(error)


class Unreadable(Exception):
    """An exception whose every method raises."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__

    @property
    def __notes__(self) -> list[str]:
        raise KeyError("notes")

    def add_note(self, note: str, /) -> None:
        raise TypeError(note)


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_exception_that_cannot_be_read_is_a_failure_of_its_step(is_async: bool) -> None:
    class Raises(Workflow):
        if is_async:

            @step
            async def go(self, ev: StartEvent) -> StopEvent:
                raise Unreadable

        else:

            @step
            def go(self, ev: StartEvent) -> StopEvent:
                raise Unreadable

    assert "Unreadable whose text cannot be read" in str(await failure_of(Raises()))


def _leaves_a_scope() -> None:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()


def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("cancel", [_cancels_itself, _leaves_a_scope])
async def test_a_step_that_cancels_its_own_task_fails_once_and_the_next_run_goes_on(cancel: Any) -> None:
    attempts: list[int] = []

    class Cancels(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempts.append(ctx.attempt)
            cancel()
            await asyncio.sleep(30)
            return StopEvent()

    class Fine(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="fine")

    assert "ended with CancelledError(" in str(await failure_of(Cancels()))
    assert attempts == [1]
    assert await Fine().run() == "fine"


async def test_an_outcome_that_cannot_be_recorded_is_charged_and_fails_its_run_after_the_charged_losses(
    deployment: Any,
) -> None:
    """Stands for any defect in the code after a step: here, an object that is not a key name."""
    attempts: list[int] = []

    class Unrecordable(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempts.append(ctx.attempt)
            ctx._step("test").taken.append(object())
            return StopEvent()

    error = await failure_of(Unrecordable())
    assert isinstance(error, WorkflowRuntimeError)
    assert "What step 'go' of run" in str(error)
    assert "could not be recorded: AttributeError(" in str(error)
    assert isinstance(error.__cause__, AttributeError)
    assert attempts == list(range(1, deployment.settings.max_losses + 1))
