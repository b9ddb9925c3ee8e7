"""Snapshots of contexts: taken of a run in any state, passed to a new run, refused when they are invalid."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from umbel import (
    Context,
    ContextSerdeError,
    ContextStateError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowTimeoutError,
    step,
)
from umbel.context.serializers import PickleSerializer
from umbel.tasks.snapshots.event_texts import with_digest

pytestmark = pytest.mark.usefixtures("runtime")


class Counted(Workflow):
    """Counts its runs in the state."""

    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = await ctx.store.get("n", default=0) + 1
        await ctx.store.set("n", n)
        return StopEvent(result=n)


class Question(StartEvent):
    text: str


class Progress(Event):
    text: str


class Asked(InputRequiredEvent):
    text: str


class Answer(HumanResponseEvent):
    text: str


class Interview(Workflow):
    """Publishes that it has begun, asks, and returns question and answer."""

    @step
    async def ask(self, ctx: Context, ev: Question) -> StopEvent:
        await ctx.store.set(f"questions.{ev.text}", True)
        ctx.write_event_to_stream(Progress(text=ev.text))
        answer = await ctx.wait_for_event(Answer, waiter_event=Asked(text=ev.text), requirements={"text": ev.text})
        return StopEvent(result=f"{ev.text}: {answer.text}")


async def asked(handler: WorkflowHandler) -> None:
    """Wait until the run waits."""
    async for event in handler.stream_events():
        if isinstance(event, Asked):
            return


async def waiting_interview(text: str = "ready?") -> tuple[WorkflowHandler, dict[str, Any]]:
    handler = Interview(timeout=None).run(text=text)
    await asked(handler)
    return handler, handler.ctx.to_dict()


def through_json(data: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(data))
    return loaded


# -- contexts before a run ---------------------------------------------------------------------------------------------


async def test_a_state_seeded_before_the_run_is_what_its_steps_find() -> None:
    workflow = Counted()
    ctx: Context[Any] = Context(workflow)
    await ctx.store.set("n", 41)

    handler = workflow.run(ctx=ctx)

    assert await handler == 42
    assert await ctx.store.get("n") == 42
    assert ctx.run_id == handler.run_id
    assert handler.ctx is ctx


async def test_the_context_of_an_ended_run_begins_another_one_with_its_state() -> None:
    workflow = Counted()
    ctx: Context[Any] = Context(workflow)
    first = workflow.run(ctx=ctx)
    assert await first == 1

    second = workflow.run(ctx=ctx)

    assert await second == 2
    assert second.run_id != first.run_id
    assert await first.ctx.store.get("n") == 2  # the same object, which now belongs to the second run
    assert await workflow.runtime.attach(first.run_id).ctx.store.get("n") == 1


class Basket(BaseModel):
    items: list[str] = []


class Shopping(Workflow):
    @step
    async def add(self, ctx: Context[Basket], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as basket:
            basket.items.append("tea")
        return StopEvent(result=basket.items)


async def test_a_typed_state_is_seeded_saved_and_restored_as_its_class() -> None:
    workflow = Shopping()
    ctx: Context[Basket] = Context(workflow)
    async with ctx.store.edit_state() as basket:
        basket.items.append("cup")
    handler = workflow.run(ctx=ctx)
    assert await handler == ["cup", "tea"]

    restored = Context.from_dict(workflow, through_json(handler.ctx.to_dict()))

    assert await restored.store.get_state() == Basket(items=["cup", "tea"])
    assert await workflow.run(ctx=restored) == ["cup", "tea", "tea"]


# -- snapshots of runs -------------------------------------------------------------------------------------------------


async def test_a_snapshot_of_a_finished_run_begins_a_new_one_with_its_state() -> None:
    workflow = Counted()
    handler = workflow.run()
    await handler
    data = through_json(handler.ctx.to_dict())
    assert (data["version"], data["is_running"]) == (2, False)
    assert data["state"]["state_data"] == {"_data": {"n": "1"}}

    restored = Context.from_dict(workflow, data)

    assert not restored.is_running
    assert await workflow.run(ctx=restored) == 2
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == 2


async def test_a_snapshot_of_a_waiting_run_continues_without_input_and_leaves_the_original_alone() -> None:
    original, data = await waiting_interview()
    workflow = Interview(timeout=None)
    ctx: Context[Any] = Context.from_dict(workflow, through_json(data))
    assert ctx.is_running

    restored = workflow.run(ctx=ctx)
    await restored.send_event(Answer(text="ready?"))

    assert await restored == "ready?: ready?"
    assert not original.is_done()
    await original.send_event(Answer(text="ready?"))
    assert await original == "ready?: ready?"
    assert await restored.ctx.store.get("questions") == {"ready?": True}


async def test_a_cancelled_run_can_be_continued_from_its_snapshot() -> None:
    handler, _ = await waiting_interview()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    data = handler.ctx.to_dict()
    assert data["is_running"] is True

    workflow = Interview(timeout=None)
    restored = workflow.run(ctx=Context.from_dict(workflow, data))
    await restored.send_event(Answer(text="ready?"))

    assert await restored == "ready?: ready?"


async def test_a_continued_run_has_what_is_left_of_its_time_limit() -> None:
    original, data = await waiting_interview()
    limited = Interview(timeout=3600)
    spent = with_digest({**data, "elapsed_alive": 3000.0})

    again = limited.run(ctx=Context.from_dict(limited, spent))
    of_again = again.ctx.to_dict()
    assert 0 <= data["elapsed_alive"] < 60
    assert 3000 <= of_again["elapsed_alive"] < 3060
    await again.cancel_run()
    assert 3000 <= again.ctx.to_dict()["elapsed_alive"] < 3060, "the time of a run that was continued counts too"

    unlimited = Interview(timeout=None)
    free = unlimited.run(ctx=Context.from_dict(unlimited, of_again))
    assert 3000 <= free.ctx.to_dict()["elapsed_alive"] < 3120

    hasty = Interview(timeout=2999)
    with pytest.raises(WorkflowTimeoutError, match="after 2999"):
        await hasty.run(ctx=Context.from_dict(hasty, of_again))
    for each in (original, free):
        await each.cancel_run()


async def test_new_input_has_the_whole_time_limit() -> None:
    _, data = await waiting_interview()
    workflow = Interview(timeout=10)
    handler = workflow.run(ctx=Context.from_dict(workflow, with_digest({**data, "elapsed_alive": 11.0})), text="new?")
    await asked(handler)
    assert handler.ctx.to_dict()["elapsed_alive"] < 10
    await handler.cancel_run()


async def test_new_input_is_answered_while_the_saved_work_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, data = await waiting_interview("first?")
    workflow = Interview(timeout=None)

    with caplog.at_level(logging.WARNING, "umbel.context"):
        second = workflow.run(ctx=Context.from_dict(workflow, data), text="second?")

    assert "1 work items left of that run are dropped" in caplog.text
    await asked(second)
    await second.send_event(Answer(text="second?"))
    assert await second == "second?: second?"
    assert await second.ctx.store.get("questions") == {"first?": True, "second?": True}


async def test_the_answer_to_a_second_question_is_the_second_ones_after_reading_was_broken_off() -> None:
    first = Interview(timeout=None).run(text="first?")
    async for event in first.stream_events():
        assert isinstance(event, Progress)
        break
    data = first.ctx.to_dict()

    workflow = Interview(timeout=30)
    second = workflow.run(ctx=Context.from_dict(workflow, data), start_event=Question(text="second?"))
    await second.send_event(Answer(text="second?"))

    assert await second == "second?: second?"


async def test_a_pickled_snapshot_is_read_only_from_trusted_data() -> None:
    handler, _ = await waiting_interview()
    workflow = Interview(timeout=None)
    data = handler.ctx.to_dict(PickleSerializer())

    restored = workflow.run(ctx=Context.from_dict(workflow, data, PickleSerializer()))
    await restored.send_event(Answer(text="ready?"))

    assert await restored == "ready?: ready?"


# -- refusals ----------------------------------------------------------------------------------------------------------


def _other_workflow(data: dict[str, Any]) -> None:
    data["umbel"]["workflow"] = "shop.Order"


def _newer(data: dict[str, Any]) -> None:
    data["version"] = 3


def _newer_umbel(data: dict[str, Any]) -> None:
    data["umbel"]["format"] = 2


def _changed(data: dict[str, Any]) -> None:
    data["workers"]["ask"]["collected_waiters"] = []


def _cut(data: dict[str, Any]) -> None:
    del data["streams"]


def _no_worker(data: dict[str, Any]) -> None:
    data["workers"] = ["ask"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other_workflow, "of workflow 'shop.Order', not of"),
        (_newer, "has version 3"),
        (_newer_umbel, "written by a newer umbel"),
        (_changed, "does not match its digest"),
        (_cut, "does not match its digest"),
        (_no_worker, "workers"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_a_damaged_foreign_or_newer_snapshot_is_refused_saying_what_is_wrong(
    damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    _, data = await waiting_interview()
    spoilt = copy.deepcopy(data)
    damage(spoilt)

    with pytest.raises(ContextSerdeError, match=message):
        Context.from_dict(Interview(), spoilt)
    with pytest.raises(ContextSerdeError, match=message):
        Context(Interview(), previous_context=spoilt)


async def test_work_for_a_removed_step_is_refused_and_names_the_step() -> None:
    _, data = await waiting_interview()
    data = with_digest(data | {"umbel": data["umbel"] | {"workflow": Counted().workflow_name}})

    with pytest.raises(ContextSerdeError, match="unfinished work for step 'ask', which"):
        Context.from_dict(Counted(), data)


async def test_the_context_of_a_run_that_is_running_begins_no_other_run() -> None:
    handler, _ = await waiting_interview()

    with pytest.raises(ContextStateError, match="still running"):
        Interview().run(ctx=handler.ctx, text="x")


async def test_the_context_of_a_step_begins_no_other_run() -> None:
    class Nested(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(ContextStateError, match="context of a running step"):
                Counted().run(ctx=ctx)
            return StopEvent(result="refused")

    assert await Nested().run() == "refused"
