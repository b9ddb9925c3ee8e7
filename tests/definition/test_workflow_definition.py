"""What a `Workflow` class and its instances know before any run."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel

from support.flows.shop import Order, Ordered, Paid, Shipped
from umbel.orchestration.model.errors import (
    WorkflowConfigurationError,
    WorkflowStepDoesNotExistError,
    WorkflowValidationError,
)
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import (
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from umbel.tasks.steps.decorators import catch_error, step
from umbel.tasks.steps.signature import StepContextMarker

StateT = TypeVar("StateT")


class Ctx(StepContextMarker, Generic[StateT]):
    """A context for annotations, like the real one."""


def test_a_workflow_knows_its_steps_and_events() -> None:
    flow = Order()

    assert list(flow.steps) == ["charge", "ship"]
    assert flow.steps["charge"].function is Order.charge
    assert flow.start_event_class is Ordered
    assert flow.stop_event_class is Shipped
    assert set(flow.events) == {Ordered, Paid, Shipped}
    assert flow.state_class is None


def test_a_step_function_is_called_on_this_instance() -> None:
    flow = Order(greeting="good day")

    assert flow.step_function("ship")(Paid()).text == "good day"

    with pytest.raises(WorkflowStepDoesNotExistError, match=r"Step lost does not exist\. .*'Order' has: charge, ship"):
        flow.step_function("lost")


def test_inherited_steps_count_and_overrides_win() -> None:
    class Express(Order):
        @step(num_workers=1)
        def ship(self, ev: Paid) -> Shipped:
            return Shipped(text="express")

        @step
        def notify(self, ev: Paid) -> None: ...

    class Silent(Order):
        def ship(self, ev: Paid) -> Shipped:
            return Shipped()

    flow = Express()

    assert list(flow.steps) == ["charge", "notify", "ship"]
    assert flow.steps["ship"].num_workers == 1
    assert flow.step_function("ship")(Paid()).text == "express"
    assert list(Order().steps) == ["charge", "ship"]
    with pytest.raises(WorkflowConfigurationError):
        Silent()


def test_free_functions_belong_to_the_class_they_name_alone() -> None:
    class Flow(Workflow):
        pass

    class Derived(Flow):
        pass

    @step(workflow=Flow)
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent()

    flow = Flow()

    assert list(flow.steps) == ["only"]
    assert flow.step_function("only") is only
    with pytest.raises(WorkflowConfigurationError):
        Derived()


def test_one_function_can_be_a_step_of_two_workflows() -> None:
    class First(Workflow):
        pass

    class Second(Workflow):
        pass

    @step(workflow=First)
    def shared(ev: StartEvent) -> StopEvent: ...

    Second.add_step(shared)

    assert list(First().steps) == list(Second().steps) == ["shared"]


def test_static_and_class_methods_can_be_steps() -> None:
    class Flow(Workflow):
        @staticmethod
        @step
        def first(ev: StartEvent) -> Paid:
            return Paid()

        @classmethod
        @step
        def second(cls, ev: Paid) -> StopEvent:
            return StopEvent(result=cls.__name__)

    flow = Flow()

    assert list(flow.steps) == ["first", "second"]
    assert isinstance(flow.step_function("first")(StartEvent()), Paid)
    assert flow.step_function("second")(Paid()).result == "Flow"


def test_a_step_under_a_second_name_is_a_second_step() -> None:
    class Flow(Workflow):
        @step
        def one(self, ev: StartEvent) -> StopEvent: ...

        two = one

    assert [config.name for config in Flow().steps.values()] == ["one", "two"]


def test_adding_refuses_duplicates_and_undecorated_functions() -> None:
    with pytest.raises(WorkflowValidationError, match="A step ship is already part of this workflow, please choose an"):

        @step(workflow=Order)
        def ship(ev: Paid) -> None: ...

    def plain(ev: Paid) -> None: ...

    with pytest.raises(WorkflowValidationError, match="Step function plain is missing the `@step` decorator"):
        Order.add_step(plain)


def test_the_name_is_module_and_qualified_name_unless_given() -> None:
    class Local(Order):
        pass

    assert Order().workflow_name == "support.flows.shop.Order"
    assert Local().workflow_name == (
        f"{__name__}.test_the_name_is_module_and_qualified_name_unless_given.<locals>.Local"
    )
    assert Order(workflow_name="orders").workflow_name == "orders"


def test_the_constructors_defaults_are_the_documented_ones() -> None:
    flow = Order()

    assert (flow._timeout, flow._disable_validation, flow._verbose) == (45.0, False, False)
    assert (flow._num_concurrent_runs, flow._resource_manager, flow._runtime) == (None, None, None)


def test_exactly_one_start_event_class_is_required() -> None:
    class Empty(Workflow):
        pass

    class NoStart(Workflow):
        @step
        def only(self, ev: Paid) -> Paid: ...

    class TwoStarts(Order):
        @step
        def other(self, ev: StartEvent) -> None: ...

    with pytest.raises(
        WorkflowConfigurationError, match=r"type StartEvent must be received by any step\. .*'Empty' has"
    ):
        Empty()
    with pytest.raises(
        WorkflowConfigurationError, match="At least one Event of type StartEvent must be received by any"
    ):
        NoStart(disable_validation=True)
    with pytest.raises(WorkflowConfigurationError) as caught:
        TwoStarts(disable_validation=True)
    assert str(caught.value).startswith(
        "Only one type of StartEvent is allowed per workflow, found 2: Ordered ('charge'), StartEvent ('other')"
    )


def test_exactly_one_stop_event_class_is_required() -> None:
    class NoStop(Workflow):
        @step
        def only(self, ev: StartEvent) -> None: ...

    class TwoStops(Order):
        @catch_error
        def other(self, ev: StepFailedEvent) -> StopEvent: ...

    with pytest.raises(
        WorkflowConfigurationError, match="At least one Event of type StopEvent must be returned by any"
    ):
        NoStop(disable_validation=True)
    with pytest.raises(WorkflowConfigurationError) as caught:
        TwoStops(disable_validation=True)
    assert str(caught.value).startswith(
        "Only one type of StopEvent is allowed per workflow, found 2: Shipped ('ship'), StopEvent ('other')"
    )


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1", 10**20])
def test_num_concurrent_runs_is_a_positive_integer_or_none(limit: Any) -> None:
    with pytest.raises(WorkflowValidationError, match="num_concurrent_runs must be an integer greater than 0 or None"):
        Order(num_concurrent_runs=limit)


class Basic(BaseModel):
    count: int = 0


class Richer(Basic):
    name: str = ""


class Unrelated(BaseModel):
    pass


def test_the_most_derived_state_model_wins() -> None:
    class Flow(Workflow):
        @step
        def one(self, ctx: Ctx[Basic], ev: StartEvent) -> Paid: ...

        @step
        def two(self, ctx: Ctx[Richer], ev: Paid) -> StopEvent: ...

        @step
        def three(self, ctx: Ctx[Any], ev: Paid) -> None: ...

    assert Flow().state_class is Richer


def test_unrelated_state_models_are_refused() -> None:
    class Flow(Workflow):
        @step
        def one(self, ctx: Ctx[Unrelated], ev: StartEvent) -> Paid: ...

        @step
        def two(self, ctx: Ctx[Richer], ev: Paid) -> StopEvent: ...

    flow = Flow()

    with pytest.raises(
        ValueError, match=r"'Flow' must share one state, but Richer \(step 'two'\) does not derive from"
    ):
        flow.validate()
