"""Short forms: retries of a step, the time limit of a class, a run that is started once, a pause."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from umbel import (
    Context,
    DictState,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    RunExists,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowValidationError,
    step,
)
from umbel.tasks.client.handler import WorkflowHandler


class Report(StopEvent):
    pages: int


class Answer(HumanResponseEvent):
    pass


class Plain(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.get("n"))


# -- retries -----------------------------------------------------------------------------------------------------------


def test_retries_n_means_n_more_attempts_with_growing_delays() -> None:
    def delays(function: Any) -> list[float | None]:
        policy = function._step_config.retry_policy
        return [policy.next(0.0, attempts, ValueError()) for attempts in range(1, 5)]

    class Flow(Plain):
        pass

    @step(workflow=Flow, retries=3)
    async def three(ev: Answer) -> None: ...

    @step(workflow=Flow, retries=3, backoff=3.0)
    async def tripled(ev: Answer) -> None: ...

    assert delays(three) == [1.0, 2.0, 4.0, None]
    assert delays(tripled) == [1.0, 3.0, 9.0, None]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"retries": -1}, "retries must be an integer of at least 0"),
        ({"retries": True}, "retries must be an integer of at least 0"),
        ({"retries": 2, "backoff": 0.5}, "backoff must be a number of at least 1"),
        ({"backoff": 2.0}, "is given backoff without retries"),
        ({"retries": 1, "retry_policy": 3}, "is given both retries and a retry_policy"),
    ],
)
def test_retries_that_cannot_be_are_refused_with_the_step(arguments: dict[str, Any], problem: str) -> None:
    async def wrong(ev: StartEvent) -> StopEvent: ...

    with pytest.raises(WorkflowValidationError, match=problem):
        step(workflow=Plain, **arguments)(wrong)


@pytest.mark.usefixtures("runtime")
async def test_a_step_with_retries_is_tried_again() -> None:
    class Flow(Workflow):
        @step(retries=1, backoff=1.0)
        async def only(self, ev: StartEvent, ctx: Context) -> StopEvent:
            if ctx.attempt == 1:
                raise ValueError("once")
            return StopEvent(result=ctx.attempt)

    assert await Flow().run() == 2


# -- time limits -------------------------------------------------------------------------------------------------------


def limit(workflow: Workflow) -> float | None:
    """Return the time limit with which runs of the workflow are started."""
    found: float | None = workflow.run_arguments()["timeout_seconds"]
    return found


def test_a_class_has_a_time_limit_that_subclasses_inherit_and_instances_override() -> None:
    class Limited(Plain, timeout=600):
        pass

    class Inherited(Limited):
        pass

    class Unlimited(Limited, timeout=None):
        pass

    assert [limit(flow()) for flow in (Plain, Limited, Inherited, Unlimited)] == [45.0, 600, 600, None]
    assert limit(Limited(timeout=3)) == 3
    assert limit(Limited(timeout=None)) is None
    with pytest.raises(WorkflowValidationError, match="timeout must be a number of seconds"):

        class Wrong(Plain, timeout="soon"):
            pass


def test_a_workflow_that_waits_for_events_has_no_time_limit_by_default() -> None:
    class Waits(Workflow):
        @step
        async def only(self, ev: StartEvent, ctx: Context) -> StopEvent:
            async def asked() -> Answer:
                return await ctx.wait_for_event(Answer)

            return StopEvent(result=await asked())

    class Asks(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent: ...

        @step
        async def take(self, ev: Answer) -> StopEvent: ...

    assert limit(Waits()) is None
    assert limit(Asks()) is None
    assert limit(Asks(timeout=45)) == 45


# -- starting once -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runtime")
async def test_a_run_that_is_started_again_under_its_id_is_attached_to() -> None:
    class Flow(Workflow[int]):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.n)

    handlers = [Flow().run(run_id="started-once", if_exists="attach", n=n) for n in range(3)]

    assert [await handler for handler in handlers] == [0, 0, 0]
    with pytest.raises(RunExists):
        Flow().run(run_id="started-once", n=1)
    with pytest.raises(RunExists, match="is a run of"):
        Plain().run(run_id="started-once", if_exists="attach")
    assert await Plain().run(if_exists="attach", n=7) == 7  # without a run id it is an ordinary field


@pytest.mark.usefixtures("runtime")
async def test_what_a_run_results_in_may_be_declared() -> None:
    class Flow(Workflow[Report]):
        @step
        async def only(self, ev: StartEvent) -> Report:
            return Report(pages=3)

    handler: WorkflowHandler[Report] = Flow().run()
    report: Report = await handler

    assert report.pages == 3


# -- pausing -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runtime")
async def test_a_step_sleeps_without_being_executed_meanwhile() -> None:
    executed: list[int] = []

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent, ctx: Context) -> StopEvent:
            executed.append(ctx.attempt)
            await ctx.sleep(0.2)
            await ctx.sleep(0.2)
            return StopEvent(result="awake")

    began = asyncio.get_running_loop().time()

    assert await Flow().run() == "awake"
    assert asyncio.get_running_loop().time() - began >= 0.4
    assert executed == [1, 1, 1]


# -- events and states as dicts ----------------------------------------------------------------------------------------


class Loose(Event):
    declared: int = 1


@pytest.mark.parametrize("make", [Loose, DictState])
def test_dynamic_data_have_the_whole_face_of_a_dict(make: Any) -> None:
    data = make(a=1, b=2)

    assert data.pop("a") == 1
    assert data.pop("a", None) is None
    assert data.setdefault("c", 3) == 3
    data.update({"d": 4}, e=5)
    del data["b"]
    assert dict(data.items()) == {"c": 3, "d": 4, "e": 5}
    assert data.popitem() in {("c", 3), ("d", 4), ("e", 5)}
    data.clear()
    assert len(data) == 0
    with pytest.raises(KeyError):
        data.pop("gone")


def test_declared_fields_are_not_touched_by_it_and_dynamic_data_of_such_a_name_come_first() -> None:
    event = Loose(update="given")

    assert event.update == "given"
    event.pop("update")
    with pytest.raises(KeyError, match="declared field"):
        event.update(declared=2)
    event.clear()
    assert event.declared == 1
