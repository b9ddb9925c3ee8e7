"""Rows 10 to 17: what is checked before a run, and which checks can be skipped."""

# Most steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any

import pytest

from umbel import Context, Workflow, catch_error, step
from umbel.errors import WorkflowConfigurationError, WorkflowValidationError
from umbel.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent


class A(Event):
    pass


class B(Event):
    pass


class Other(StartEvent):
    pass


class Outcome(StopEvent):
    pass


class Base(Workflow):
    """Valid by itself; tests add mistakes."""

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="ran")


# -- 10: one start, one stop -------------------------------------------------------------------------------------------


class NoStart(Workflow):
    @step
    def go(self, ev: A) -> Outcome: ...


class TwoStarts(Workflow):
    @step
    def go(self, ev: StartEvent | Other) -> StopEvent | Outcome: ...


class NoStop(Workflow):
    @step
    def go(self, ev: StartEvent) -> A: ...


class TwoStops(Workflow):
    @step
    def go(self, ev: StartEvent) -> StopEvent | Outcome: ...


@pytest.mark.parametrize("disable_validation", [False, True])
@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (NoStart, "At least one Event of type StartEvent must be received by any step."),
        (TwoStarts, "Only one type of StartEvent is allowed per workflow, found 2: "),
        (NoStop, "At least one Event of type StopEvent must be returned by any step."),
        (TwoStops, "Only one type of StopEvent is allowed per workflow, found 2: "),
    ],
)
@pytest.mark.row(10)
def test_exactly_one_start_and_one_stop_class_are_asked_for_by_the_constructor(
    flow: type[Workflow], text: str, disable_validation: bool
) -> None:
    with pytest.raises(WorkflowConfigurationError) as caught:
        flow(disable_validation=disable_validation)

    assert str(caught.value).startswith(text)


# -- 11, 12: when it is checked, and the errors ------------------------------------------------------------------------


@pytest.mark.row(11)
async def test_a_workflow_is_checked_once_and_again_after_add_step() -> None:
    checks = 0

    class Counted(Base):
        def validate(self, **options: Any) -> bool:
            nonlocal checks
            checks += 1
            return super().validate(**options)

    flow = Counted()
    for _ in range(3):
        assert await flow.run() == "ran"
    assert checks == 1

    @step(workflow=Counted)
    def late(ev: StartEvent) -> None: ...

    await flow.run()
    await flow.run()
    assert checks == 2


@pytest.mark.row(12)
def test_validate_says_whether_there_is_a_human_in_the_loop() -> None:
    class Asks(Base):
        @step
        def ask(self, ev: StartEvent) -> InputRequiredEvent | None: ...

    class Listens(Base):
        @step
        def listen(self, ev: HumanResponseEvent) -> None: ...

    assert [flow().validate() for flow in (Base, Asks, Listens)] == [False, True, True]


@pytest.mark.row(12)
def test_validate_checks_again_each_time_also_where_validation_is_disabled() -> None:
    class Growing(Base):
        pass

    flow = Growing(disable_validation=True)
    assert flow.validate() is False

    @step(workflow=Growing)
    def stray(ev: A) -> None: ...

    with pytest.raises(WorkflowValidationError, match="consumed but never produced: A"):
        flow.validate()


# -- 13 to 16: whether the steps fit together --------------------------------------------------------------------------


@pytest.mark.row(13)
def test_events_without_a_producer_or_a_consumer_are_named() -> None:
    class Needs(Base):
        @step
        def take(self, ev: A) -> None: ...

    class Leaves(Base):
        @step
        def give(self, ev: StartEvent) -> B | None: ...

    with pytest.raises(WorkflowValidationError, match=r"^The following events are consumed but never produced: A"):
        Needs().run()
    with pytest.raises(WorkflowValidationError, match=r"^The following events are produced but never consumed: B"):
        Leaves().run()


@pytest.mark.parametrize("checks", [{"reachability", "terminal_event", "dead_end"}])
@pytest.mark.row(13)
def test_no_skipped_graph_check_lets_them_pass(checks: Any) -> None:
    class Needs(Base):
        @step
        def take(self, ev: A) -> B: ...

    with pytest.raises(WorkflowValidationError) as caught:
        Needs(skip_graph_checks=checks).validate()
    assert [line.partition(".")[0] for line in str(caught.value).splitlines()] == [
        "The following events are consumed but never produced: A",
        "The following events are produced but never consumed: B",
    ]


@pytest.mark.row(13)
def test_events_that_cross_the_border_of_the_workflow_need_no_partner() -> None:
    class Border(Base):
        @step
        def listen(self, ev: HumanResponseEvent) -> InputRequiredEvent: ...

        @catch_error
        def rescue(self, ev: StepFailedEvent) -> StopEvent: ...

    assert Border().validate() is True


class Tangled(Base):
    """Every event has a producer and a consumer, yet all three graph checks fail."""

    @step
    def island(self, ev: A) -> A: ...

    @step
    def emit(self, ev: StartEvent) -> B: ...

    @step
    def circle(self, ev: B) -> B: ...

    @step
    def tell(self, ev: StartEvent) -> HumanResponseEvent: ...


@pytest.mark.row(14)
def test_one_error_lists_all_graph_problems() -> None:
    with pytest.raises(WorkflowValidationError) as caught:
        Tangled().validate()

    assert str(caught.value).startswith(
        "Graph validation failed:\n"
        "  - [reachability] Unreachable steps: island\n"
        "    Steps must be reachable from StartEvent or HumanResponseEvent.\n"
        "  - [terminal_event] Events produced but never consumed: HumanResponseEvent\n"
        "    Only StopEvent and InputRequiredEvent may be terminal.\n"
        "  - [dead_end] Dead-end steps: circle, emit, island, tell\n"
        "    Steps must have a path to StopEvent or InputRequiredEvent.\n"
    )


@pytest.mark.row(15)
def test_graph_checks_are_skipped_for_a_workflow_or_a_step() -> None:
    class Excused(Base):
        @step(skip_graph_checks=["reachability", "dead_end"])
        def island(self, ev: A) -> A: ...

    assert Excused().validate() is False
    assert Tangled(skip_graph_checks={"reachability", "terminal_event", "dead_end"}).validate() is False
    with pytest.raises(WorkflowValidationError) as caught:
        Tangled(skip_graph_checks={"reachability", "dead_end"}).validate()
    assert "[terminal_event]" in str(caught.value)
    assert "[reachability]" not in str(caught.value)
    assert "[dead_end]" not in str(caught.value)


@pytest.mark.row(15)
def test_an_unknown_graph_check_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match="Unknown graph check names: spelling"):
        Base(skip_graph_checks={"spelling"})  # type: ignore[arg-type]
    with pytest.raises(WorkflowValidationError, match="Unknown graph check names: .*terminal_event"):

        @step(skip_graph_checks=["terminal_event"])  # type: ignore[list-item]
        def go(self: Any, ev: StartEvent) -> StopEvent: ...


@pytest.mark.row(16)
def test_no_step_accepts_the_stop_event() -> None:
    class After(Base):
        @step
        def after(self, ev: StopEvent) -> None: ...

    with pytest.raises(WorkflowValidationError, match="^Step 'after' cannot accept StopEvent"):
        After().validate()


# -- 17: without validation --------------------------------------------------------------------------------------------


@pytest.mark.row(17)
async def test_without_validation_steps_that_do_not_fit_run_and_handlers_still_catch_errors() -> None:
    class Unchecked(Workflow):
        @step
        async def fail(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise ValueError("boom")

        @step
        async def nobody_feeds_me(self, ev: A) -> None: ...

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=f"caught {ev.exception!r}")

    with pytest.raises(WorkflowValidationError, match="consumed but never produced"):
        Unchecked().run()

    assert await Unchecked(disable_validation=True).run() == "caught ValueError('boom')"
