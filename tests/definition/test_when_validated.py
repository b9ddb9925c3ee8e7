"""When a workflow is validated, what is cached, and which checks can be skipped."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import pytest

from support.flows.shop import Order, Paid, Shipped
from umbel.orchestration.model.errors import (
    WorkflowValidationError,
)
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import (
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from umbel.tasks.steps.decorators import catch_error, step
from umbel.tasks.workflow.plan_builder import build_plan


def test_unknown_graph_checks_are_refused() -> None:
    with pytest.raises(WorkflowValidationError) as caught:
        Order(skip_graph_checks={"reachability", "gravity"})

    assert str(caught.value) == (
        "Unknown graph check names: gravity. Valid names are: dead_end, reachability, terminal_event"
    )


def test_validation_returns_whether_a_human_is_in_the_loop() -> None:
    class Ask(Workflow):
        @step
        def ask(self, ev: StartEvent) -> InputRequiredEvent: ...

        @step
        def answer(self, ev: HumanResponseEvent) -> StopEvent: ...

    assert Ask().validate() is True
    assert Order().validate() is False


def test_validity_is_remembered_until_a_step_is_added() -> None:
    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent: ...

    flow = Flow()
    assert flow.ensure_valid() is False

    @step(workflow=Flow)
    def stray(ev: Paid) -> None: ...

    with pytest.raises(WorkflowValidationError, match="consumed but never produced: Paid"):
        flow.ensure_valid()
    with pytest.raises(WorkflowValidationError, match="consumed but never produced: Paid"):
        flow.ensure_valid()


def test_what_makes_a_class_invalid_is_found_by_new_instances_too() -> None:
    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent: ...

    class Derived(Flow): ...

    assert Flow().ensure_valid() is Derived().ensure_valid() is False

    class Other(Workflow):
        @step
        def stray(self, ev: Paid) -> None: ...

    Flow.late = Other.stray  # type: ignore[attr-defined]

    for cls in (Flow, Derived):
        with pytest.raises(WorkflowValidationError, match="consumed but never produced: Paid"):
            cls().ensure_valid()
    del Flow.late  # type: ignore[attr-defined]
    assert Flow().ensure_valid() is Derived().ensure_valid() is False


def test_instances_that_leave_out_different_graph_checks_are_checked_each() -> None:
    class Loop(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent: ...

        @step
        def turn(self, ev: Paid) -> Paid: ...

    assert Loop(skip_graph_checks=["reachability", "dead_end", "terminal_event"]).ensure_valid() is False
    with pytest.raises(WorkflowValidationError, match="Graph validation failed"):
        Loop().ensure_valid()


def test_a_validation_of_ones_own_is_asked_for_each_instance() -> None:
    class Careful(Order):
        def validate(self, **options: bool) -> bool:
            asked.append(self)
            return super().validate(**options)

    asked: list[object] = []
    first, second = Careful(), Careful()
    first.ensure_valid()
    first.ensure_valid()
    second.ensure_valid()

    assert asked == [first, second]


def test_disabled_validation_is_skipped_by_runs_but_not_by_validate() -> None:
    class Broken(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent: ...

        @step
        def stray(self, ev: Paid) -> None: ...

    flow = Broken(disable_validation=True)

    assert flow.ensure_valid() is False
    with pytest.raises(WorkflowValidationError):
        flow.validate()


def test_disabled_validation_keeps_error_handlers() -> None:
    class Careful(Order):
        @catch_error
        def rescue(self, ev: StepFailedEvent) -> Shipped: ...

    handler = build_plan(Careful(disable_validation=True)).handler_of("charge")

    assert handler is not None
    assert handler.name == "rescue"
