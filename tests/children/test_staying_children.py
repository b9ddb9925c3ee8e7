"""`on_parent_end="wait"`: a run completes only after such children have ended."""

from __future__ import annotations

import pytest

from support.flows.children import until
from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    Workflow,
    WorkflowHandler,
    attach,
    step,
)
from umbel.errors import WorkflowTimeoutError
from umbel.orchestration.history.verify import verify
from umbel.plugins import BasicRuntime

pytestmark = pytest.mark.usefixtures("runtime")


class Enough(HumanResponseEvent):
    """Ends the parent."""

    result: str


class Break(HumanResponseEvent):
    """Fails a step of the parent."""


class Waits(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)


class Quick(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="quick")


class Watch(Event):
    child: str


class Never(HumanResponseEvent):
    """Is never sent."""


class Idle(Event):
    pass


class Parent(Workflow):
    """One step waits for a child, others end the run or fail."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Watch | Idle]:
        return [Watch(child=ev.child), Idle()]

    @step
    async def watch(self, ctx: Context, ev: Watch) -> StopEvent | None:
        await ctx.run(Waits(timeout=None), id=ev.child, on_parent_end="wait")
        return None

    @step
    async def idle(self, ctx: Context, ev: Idle) -> None:
        await ctx.wait_for_event(Never)

    @step
    async def end(self, ev: Enough) -> StopEvent:
        return StopEvent(result=ev.result)

    @step
    async def fail(self, ev: Break) -> None:
        raise ValueError("broken")


async def begun(child: str, timeout: float | None = None) -> WorkflowHandler:
    """Start a parent and wait until its child is running."""
    handler = Parent(timeout=timeout).run(child=child)
    await until(child, "running")
    return handler


async def stopped(handler: WorkflowHandler, name: str) -> None:
    """Wait until a step has been executed and its outcome recorded."""
    async for event in handler.stream_events(expose_internal=True, types=[StepStateChanged]):
        assert isinstance(event, StepStateChanged)
        if event.name == name and event.step_state is StepState.NOT_RUNNING:
            return
    raise AssertionError(f"{name} was never executed")


def verified(runtime: BasicRuntime, handler: WorkflowHandler) -> bool:
    """Return whether the journal of a run replays to its state."""
    return bool(runtime.portal.call(verify(runtime.store, handler.run_id)).holds)


async def test_a_run_completes_when_such_a_child_has_ended_with_the_first_result(runtime: BasicRuntime) -> None:
    handler = await begun("stays-1")
    await handler.send_event(Enough(result="first"))
    await stopped(handler, "end")
    await handler.send_event(Enough(result="second"))
    assert handler.status() == "running"
    assert verified(runtime, handler)
    await attach("stays-1").send_event(HumanResponseEvent(response="fine"))
    assert await handler == "first"
    assert attach("stays-1").status() == "completed"
    assert verified(runtime, handler)


async def test_a_run_that_has_its_result_does_not_fail_while_it_waits_for_a_child() -> None:
    handler = await begun("stays-2")
    await handler.send_event(Enough(result="done"))
    await stopped(handler, "end")
    await handler.send_event(Break())
    await stopped(handler, "fail")
    await attach("stays-2").send_event(HumanResponseEvent(response="fine"))
    assert await handler == "done"


async def test_the_result_stands_although_the_child_is_cancelled() -> None:
    handler = await begun("stays-3")
    await handler.send_event(Enough(result="done"))
    await stopped(handler, "end")
    await attach("stays-3").cancel_run()
    assert await handler == "done"


async def test_cancelling_the_step_that_waits_for_it_ends_the_child_and_the_wait() -> None:
    handler = await begun("stays-4")
    await handler.send_event(Enough(result="done"))
    await stopped(handler, "end")
    await handler.cancel_step("watch")
    assert await handler == "done"
    await until("stays-4", "cancelled")


async def test_a_run_that_fails_does_not_wait() -> None:
    handler = await begun("stays-5")
    await handler.send_event(Break())
    with pytest.raises(ValueError, match="broken"):
        await handler
    await until("stays-5", "cancelled")


async def test_a_run_that_is_cancelled_or_out_of_time_does_not_wait_and_a_retry_waits_again(
    runtime: BasicRuntime,
) -> None:
    handler = await begun("stays-6", timeout=0.5)
    await handler.send_event(Enough(result="done"))
    with pytest.raises(WorkflowTimeoutError):
        await handler
    await until("stays-6", "cancelled")
    assert verified(runtime, handler)
    await runtime.portal.run(runtime.engine.retry(handler.run_id))
    await until("stays-6", "running")
    await attach("stays-6").send_event(HumanResponseEvent(response="fine"))
    again = attach(handler.run_id)
    assert await again == "done"
    assert verified(runtime, handler)


async def test_the_next_run_of_a_session_begins_when_the_wait_is_over() -> None:
    handler = Parent(timeout=None).run(session="staying", child="stays-7")
    following = Quick().run(session="staying")
    await until("stays-7", "running")
    await handler.send_event(Enough(result="done"))
    await stopped(handler, "end")
    assert following.status() == "queued"
    await attach("stays-7").send_event(HumanResponseEvent(response="fine"))
    assert (await handler, await following) == ("done", "quick")
