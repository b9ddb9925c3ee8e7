"""Calls of `ctx` with arguments of wrong types: one error that names the step and the argument, at the call."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    UnserializableValue,
    Workflow,
    WorkflowRuntimeError,
    WorkflowStepDoesNotExistError,
    step,
)

pytestmark = pytest.mark.usefixtures("runtime")

HALF_A_PAIR = "\ud800"


class Card(Event):
    n: int = 0


class Leaf(Workflow):
    @step
    async def grow(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.get("n", 1))


def asking(call: Callable[[Any], Any]) -> Workflow:
    """A workflow whose step makes this call."""

    class Asking(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Card | StopEvent | None:
            found = call(ctx)
            return StopEvent(result=await found if isinstance(found, Awaitable) else found)

        @step
        async def see(self, ev: Card) -> StopEvent | None:
            return None

    return Asking(timeout=None)


async def failure(call: Callable[[Any], Any]) -> Exception:
    """What a run fails with whose step makes this call: after one attempt, and with a journal that can be read."""
    handler = asking(call).run()
    with pytest.raises(Exception) as raised:  # noqa: PT011
        await handler
    assert [point.kind for point in handler.history()].count("claim") == 1
    return raised.value


@pytest.mark.parametrize(
    "waiter_id", [True, False, 5, 1.5, float("inf"), b"x", (1,), {"a": 1}, ["a"], uuid.UUID(int=1), HALF_A_PAIR]
)
async def test_a_wait_whose_name_is_not_text_fails_the_step_at_once(waiter_id: Any) -> None:
    error = await failure(lambda ctx: ctx.wait_for_event(HumanResponseEvent, waiter_id=waiter_id))

    assert type(error) is WorkflowRuntimeError
    assert "wait_for_event() of step 'ask' of run" in str(error)
    assert f"was given the waiter_id {waiter_id!r}. Give a text that names the wait" in str(error)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda ctx: ctx.wait_for_event("Card"), WorkflowRuntimeError, "was given 'Card'. Give the class of the event"),
        (lambda ctx: ctx.wait_for_event(Card, requirements=5), WorkflowRuntimeError, "are 5. Give a dict"),
        (lambda ctx: ctx.send_event(Card(), step={}), WorkflowRuntimeError, "Step {} does not exist in workflow"),
        (lambda ctx: ctx.cancel_step([]), WorkflowRuntimeError, "was given []. Give the name of a step"),
        (lambda ctx: ctx.cancel_step(None), WorkflowRuntimeError, "was given None. Give the name of a step"),
        (lambda ctx: ctx.cancel_step("none"), WorkflowStepDoesNotExistError, "has no step 'none'"),
        (lambda ctx: ctx.cancel_step("see", where="n"), WorkflowRuntimeError, "was given where='n'. Give a dict"),
        (lambda ctx: ctx.cancel_step("see", where={"n": float("inf")}), UnserializableValue, "can have these field"),
        (lambda ctx: ctx.collect_events(Card(), Card), WorkflowRuntimeError, "Give a list of event classes"),
        (lambda ctx: ctx.collect_events(Card(), [Card()]), WorkflowRuntimeError, "Give a list of event classes"),
        (
            lambda ctx: ctx.collect_events(Card(), [Card], buffer_id=HALF_A_PAIR),
            WorkflowRuntimeError,
            "the buffer_id '\\ud800', which UTF-8 cannot carry",
        ),
        (lambda ctx: ctx.run(Leaf(), name=[]), WorkflowRuntimeError, "cannot give a child run the name []"),
        (lambda ctx: ctx.run(Leaf(), name=HALF_A_PAIR), WorkflowRuntimeError, "the name '\\ud800'. Give a text"),
        (lambda ctx: ctx.run(5, session="talk"), WorkflowRuntimeError, "cannot run 5 as a child"),
        (lambda ctx: ctx.run_all(5), WorkflowRuntimeError, "was given 5. Give it a list"),
        (lambda ctx: ctx.once("key", 5), WorkflowRuntimeError, "got 5, which is not a function"),
        (lambda ctx: ctx.store.set(5, 1), ValueError, "Path 5 is not text. Name a key of the state"),
        (lambda ctx: ctx.store.get(0), ValueError, "Path 0 is not text. Name a key of the state"),
        (lambda ctx: ctx.store.get(HALF_A_PAIR), ValueError, "Path '\\ud800' is not text"),
    ],
)
async def test_an_argument_of_a_wrong_type_fails_the_step_with_an_error_that_names_it(
    call: Callable[[Any], Any], kind: type[Exception], says: str
) -> None:
    error = await failure(call)

    assert type(error) is kind
    assert says in str(error)


async def test_a_wait_does_not_get_the_answer_to_a_wait_of_the_same_name_for_another_class() -> None:
    async def ask_twice(ctx: Context) -> str:
        await ctx.wait_for_event(HumanResponseEvent, waiter_id="one")
        return str((await ctx.wait_for_event(Card, waiter_id="one")).n)

    handler = asking(ask_twice).run()
    await handler.send_event(HumanResponseEvent(response="yes"))

    with pytest.raises(
        WorkflowRuntimeError, match="waits for Card with the waiter_id 'one', which was answered by a Hum"
    ):
        await handler


async def test_a_handler_refuses_to_select_steps_by_anything_but_a_name() -> None:
    handler = asking(lambda ctx: ctx.wait_for_event(HumanResponseEvent)).run()

    with pytest.raises(WorkflowRuntimeError, match=r"was given \[\]\. Give the name of a step"):
        await handler.cancel_step([])  # type: ignore[arg-type]
    with pytest.raises(WorkflowRuntimeError, match=r"Step \[\] does not exist"):
        await handler.send_event(Card(), step=[])  # type: ignore[arg-type]

    assert await handler.cancel() is True


async def test_a_generator_of_child_runs_starts_them_all() -> None:
    handler = asking(lambda ctx: ctx.run_all(Leaf.start(n=n) for n in range(3))).run()

    assert await handler == [0, 1, 2]
