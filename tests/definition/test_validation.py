"""The errors of validation for steps that do not fit together."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any

import pytest

from umbel.orchestration.model.errors import WorkflowConfigurationError, WorkflowValidationError
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from umbel.tasks.steps.decorators import catch_error, step
from umbel.tasks.workflow.validation import check_workflow


class A(Event):
    pass


class B(Event):
    pass


class C(Event):
    pass


class SmallA(A):
    pass


class Base(Workflow):
    """Valid by itself; tests add mistakes."""

    @step
    def only(self, ev: StartEvent) -> StopEvent: ...


def complaint(flow: type[Workflow], **options: Any) -> str:
    with pytest.raises(WorkflowValidationError) as caught:
        flow(**options).validate()
    return str(caught.value)


def test_a_workflow_without_steps_is_reported() -> None:
    with pytest.raises(WorkflowConfigurationError, match=r"Workflow 'Empty' has no configured steps"):
        check_workflow("Empty", {})


def test_an_event_that_nobody_produces_is_named_with_its_step() -> None:
    class Flow(Base):
        @step
        def wait(self, ev: A | C) -> None: ...

        @step
        def wait_too(self, ev: A) -> None: ...

    text = complaint(Flow)

    assert text.startswith("The following events are consumed but never produced: A, C. In workflow 'Flow'")
    assert "steps 'wait', 'wait_too' wait for A; step 'wait' waits for C" in text
    assert "HumanResponseEvent" in text
    assert "produced but never consumed" not in text


def test_an_event_that_nobody_consumes_is_named_with_its_step() -> None:
    class Flow(Base):
        @step
        def emit(self, ev: StartEvent) -> A | None: ...

    text = complaint(Flow)

    assert text.startswith("The following events are produced but never consumed: A. In workflow 'Flow', step 'emit'")


def test_events_that_cross_the_border_need_no_partner() -> None:
    class Ask(InputRequiredEvent):
        pass

    class Answer(HumanResponseEvent):
        pass

    class Flow(Base):
        @step
        def ask(self, ev: Answer) -> Ask: ...

    assert Flow().validate() is True


def test_routing_is_by_exact_class_unless_asked_otherwise() -> None:
    class Exact(Base):
        @step
        def emit(self, ev: StartEvent) -> SmallA | None: ...

        @step
        def take(self, ev: A) -> None: ...

    class Wide(Base):
        @step
        def emit(self, ev: StartEvent) -> SmallA | None: ...

        @step(accept_event_subclasses=True)
        def take(self, ev: A) -> StopEvent: ...

    text = complaint(Exact)

    assert "consumed but never produced: A" in text
    assert "SmallA derives from A, but routing goes by exact class" in text
    assert "produced but never consumed: SmallA" in text
    assert Wide().validate() is False


def test_no_step_accepts_the_stop_event() -> None:
    class Flow(Base):
        @step
        def after(self, ev: StopEvent) -> None: ...

    assert complaint(Flow).startswith("Step 'after' cannot accept StopEvent.")


def test_a_list_parameter_needs_a_list_that_leads_to_it() -> None:
    class Flow(Base):
        @step
        def emit(self, ev: StartEvent) -> A: ...

        @step
        def gather(self, evs: list[A]) -> StopEvent: ...

    text = complaint(Flow)

    assert text.startswith(
        "Step 'gather' parameter 'evs' collects list[A], but no returned-list producer creates a stream"
    )
    assert "'Flow'" in text


def test_every_class_of_a_list_parameter_needs_a_list() -> None:
    class Flow(Base):
        @step
        def split(self, ev: StartEvent) -> list[A] | B: ...

        @step
        def gather(self, evs: list[A | B]) -> StopEvent: ...

    assert "collects list[B], but no returned-list producer" in complaint(Flow)


def test_a_list_may_lead_to_its_parameter_through_other_steps() -> None:
    class Flow(Base):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def work(self, ev: A) -> B: ...

        @catch_error
        def rescue(self, ev: StepFailedEvent) -> C: ...

        @step
        def gather(self, evs: list[B | C]) -> StopEvent: ...

    assert Flow().validate() is False


def test_a_join_across_levels_is_refused() -> None:
    class Flow(Base):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def emit(self, ev: StartEvent) -> B: ...

        @step
        def pair(self, a: A, b: B) -> StopEvent: ...

    text = complaint(Flow)

    assert text.startswith("Step 'pair' joins event parameters that are never produced at a common stream level")
    assert "'a' (A) is produced at the stream of step 'split'" in text
    assert "'b' (B) is produced at the top level" in text


def test_a_join_within_one_level_is_fine() -> None:
    class Inside(Base):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def one(self, ev: A) -> B: ...

        @step
        def two(self, ev: A) -> C: ...

        @step
        def pair(self, b: B, c: C) -> StopEvent: ...

    class Collected(Base):
        @step
        def split(self, ev: StartEvent) -> list[A]: ...

        @step
        def gather(self, evs: list[A]) -> C: ...

        @step
        def emit(self, ev: StartEvent) -> B: ...

        @step
        def pair(self, b: B, c: C) -> StopEvent: ...

    class Same(Base):
        @step
        def emit(self, ev: StartEvent) -> A: ...

        @step
        def pair(self, first: A, second: A) -> StopEvent: ...

    class Human(Base):
        @step
        def emit(self, ev: StartEvent) -> A: ...

        @step
        def pair(self, a: A, answer: HumanResponseEvent) -> StopEvent: ...

    assert [flow().validate() for flow in (Inside, Collected, Same, Human)] == [False, False, False, True]


def test_conflicts_between_handlers_are_all_listed() -> None:
    class Flow(Base):
        @catch_error
        def rest(self, ev: StepFailedEvent) -> None: ...

        @catch_error
        def other_rest(self, ev: StepFailedEvent) -> None: ...

        @catch_error(for_steps=["only", "lost", "rest"])
        def first(self, ev: StepFailedEvent) -> None: ...

        @catch_error(for_steps=["only"])
        def second(self, ev: StepFailedEvent) -> None: ...

    text = complaint(Flow)

    assert "Only one wildcard @catch_error handler is allowed per workflow, found 2: other_rest, rest" in text
    assert "@catch_error handler 'first' lists unknown step 'lost' in for_steps." in text
    assert "@catch_error handler 'first' cannot cover another handler step 'rest'" in text
    assert "Step 'only' is claimed by two @catch_error handlers: 'first' and 'second'" in text


def test_problems_of_different_kinds_are_listed_together() -> None:
    class Flow(Base):
        @step
        def wait(self, ev: A) -> B: ...

        @step
        def after(self, ev: StopEvent) -> None: ...

    lines = complaint(Flow).splitlines()

    assert [line.partition(":")[0].partition(".")[0] for line in lines] == [
        "Step 'after' cannot accept StopEvent",
        "The following events are consumed but never produced",
        "The following events are produced but never consumed",
    ]


class Tangled(Base):
    """Every step is connected, yet all three graph checks fail."""

    @step
    def island(self, ev: A) -> A: ...

    @step
    def emit(self, ev: StartEvent) -> B: ...

    @step
    def circle(self, ev: B) -> B: ...

    @step
    def tell(self, ev: StartEvent) -> HumanResponseEvent: ...


def test_the_graph_checks_are_reported_in_one_error() -> None:
    assert complaint(Tangled) == (
        "Graph validation failed:\n"
        "  - [reachability] Unreachable steps: island\n"
        "    Steps must be reachable from StartEvent or HumanResponseEvent.\n"
        "  - [terminal_event] Events produced but never consumed: HumanResponseEvent\n"
        "    Only StopEvent and InputRequiredEvent may be terminal.\n"
        "  - [dead_end] Dead-end steps: circle, emit, island, tell\n"
        "    Steps must have a path to StopEvent or InputRequiredEvent.\n"
        "Fix the annotations of workflow 'Tangled', or name a check in skip_graph_checks."
    )


def test_graph_checks_can_be_skipped_for_the_workflow() -> None:
    assert "reachability" not in complaint(Tangled, skip_graph_checks={"reachability", "terminal_event"})
    assert Tangled(skip_graph_checks={"reachability", "terminal_event", "dead_end"}).validate() is False


def test_graph_checks_can_be_skipped_for_a_step() -> None:
    class Flow(Base):
        @step(skip_graph_checks=["reachability", "dead_end"])
        def island(self, ev: A) -> A: ...

    assert Flow().validate() is False


def test_handlers_and_human_answers_are_ways_in() -> None:
    class Flow(Base):
        @catch_error
        def rescue(self, ev: StepFailedEvent) -> A: ...

        @step
        def again(self, ev: A) -> StopEvent: ...

        @step
        def answer(self, ev: HumanResponseEvent) -> None: ...

    assert Flow().validate() is True
