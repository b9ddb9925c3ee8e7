"""Rows 57 and 58: cancelling a run, and the deprecated methods of its handler."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from support.runs import published
from umbel import Context, Workflow, WorkflowHandler, step
from umbel.errors import WorkflowCancelledByUser
from umbel.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, WorkflowCancelledEvent


class Asked(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    text: str


class Interview(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("topic", ev.topic)
        return StopEvent(result=[ev.topic, (await ctx.wait_for_event(Answer, waiter_event=Asked())).text])


async def waiting_interview() -> WorkflowHandler:
    """Return the handler, still unread, of a run that waits for its answer."""
    handler = Interview(timeout=None).run(topic="ships")
    await published(handler, Asked)
    return handler


# -- 57 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(57)
async def test_cancel_run_swallows_and_awaiting_raises() -> None:
    handler = await waiting_interview()
    assert (handler.is_done(), handler.get_stop_event()) == (False, None)

    assert await handler.cancel_run() is None  # type: ignore[func-returns-value]
    assert await handler.cancel_run() is None  # type: ignore[func-returns-value]  # of a run that is over

    assert handler.is_done()
    assert handler.get_stop_event() == await handler.stop_event_result() == WorkflowCancelledEvent()
    for _ in range(2):
        with pytest.raises(WorkflowCancelledByUser, match=f"^Run {handler.run_id!r} was cancelled.$"):
            await handler
    assert [event async for event in handler.stream_events()] == [Asked(), WorkflowCancelledEvent()]
    timeout = inspect.signature(WorkflowHandler.cancel_run).parameters["timeout"]
    assert (timeout.kind, timeout.default) == (inspect.Parameter.KEYWORD_ONLY, 5.0)


@pytest.mark.row(57)
async def test_a_cancelled_run_can_be_resumed_from_its_snapshot() -> None:
    handler = await waiting_interview()
    await handler.cancel_run()
    data = handler.ctx.to_dict()
    assert data["is_running"] is True

    workflow = Interview(timeout=None)
    resumed = workflow.run(ctx=Context.from_dict(workflow, data))
    await resumed.send_event(Answer(text="yes"))

    assert await resumed == ["ships", "yes"]


# -- 58 ----------------------------------------------------------------------------------------------------------------


class Ends(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        if ev.get("fails"):
            raise ValueError("boom")
        return StopEvent(result="fine")


def warned(call: Any) -> Any:
    """Return the result of a deprecated method, which must warn."""
    with pytest.warns(DeprecationWarning, match="is deprecated: use"):
        return call()


@pytest.mark.row(58)
async def test_the_deprecated_methods_warn_and_answer() -> None:
    fine = Ends().run()
    assert await fine == "fine"
    assert (warned(fine.done), warned(fine.cancelled), warned(fine.exception)) == (True, False, None)

    failed = Ends().run(fails=True)
    with pytest.raises(ValueError, match="boom"):
        await failed
    error = warned(failed.exception)
    assert (warned(failed.cancelled), type(error), str(error)) == (False, ValueError, "boom")

    unwanted = await waiting_interview()
    assert warned(unwanted.done) is False
    with pytest.raises(asyncio.InvalidStateError):
        warned(unwanted.exception)
    await unwanted.cancel_run()
    assert warned(unwanted.cancelled) is True
    with pytest.raises(asyncio.CancelledError):
        warned(unwanted.exception)


@pytest.mark.row(58)
async def test_cancel_is_no_hard_cancel_of_a_local_task_but_ends_the_run_wherever_it_is() -> None:
    """In LlamaIndex Workflows it is deprecated and cancels the awaiting task; here it says whether it ended the run."""
    handler = await waiting_interview()

    assert [await handler.cancel(), await handler.cancel()] == [True, False]

    with pytest.raises(WorkflowCancelledByUser):
        await handler
