"""The arguments of `@step` and `@catch_error`, and which ones they refuse."""

# Steps here are inspected, not run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import inspect
from typing import Any  # old spellings are accepted

import pytest

from support.steps import A, Ctx, config_of, decorated, module_level, refused
from umbel.orchestration.model.errors import WorkflowValidationError
from umbel.tasks.client.workflow import Workflow
from umbel.tasks.events.event import StartEvent, StepFailedEvent, StopEvent
from umbel.tasks.retry.policy import retry_policy
from umbel.tasks.steps.decorators import catch_error, step


def test_the_decorated_function_stays_an_ordinary_function() -> None:
    class Flow(Workflow):
        @step
        async def bare(self, ev: StartEvent) -> A:
            return A()

        @step()
        def called(self, ev: A) -> StopEvent:
            """Ends."""
            return StopEvent(result="done")

    assert inspect.isfunction(Flow.bare)
    assert inspect.isfunction(Flow.called)
    assert Flow.called.__doc__ == "Ends."
    assert Flow().called(A()).result == "done"
    assert config_of(Flow.bare).is_async
    assert not config_of(Flow.called).is_async


def test_a_step_has_the_documented_defaults() -> None:
    def plain(ev: A) -> None: ...

    config = decorated(plain)

    assert (config.name, config.function, config.kind) == ("plain", plain, "each")
    assert (config.num_workers, config.retry_policy, config.accept_event_subclasses) == (4, None, False)
    assert (config.queue, config.priority, config.timeout_seconds) == (None, None, None)
    assert (config.skip_graph_checks, config.recovers) == (frozenset(), ())


def test_a_step_carries_the_decorators_arguments() -> None:
    def busy(ev: A) -> None: ...

    policy = retry_policy()
    config = decorated(
        busy,
        num_workers=1,
        retry_policy=policy,
        skip_graph_checks=["dead_end"],
        accept_event_subclasses=True,
        queue="gpu",
        priority=9,
        timeout=0.5,
    )

    assert (config.num_workers, config.retry_policy, config.accept_event_subclasses) == (1, policy, True)
    assert (config.queue, config.priority, config.timeout_seconds) == ("gpu", 9, 0.5)
    assert config.skip_graph_checks == {"dead_end"}


@pytest.mark.parametrize("number", [0, -1, 1.5, "4", True, None, 10**20])
def test_num_workers_is_a_positive_integer(number: Any) -> None:
    assert refused(module_level, num_workers=number).startswith(
        f"num_workers must be an integer greater than 0, got {number!r} for step 'module_level'"
    )


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("timeout", 0, "timeout must be a number of seconds greater than 0, got 0"),
        ("timeout", float("nan"), "timeout must be a number of seconds greater than 0, got nan"),
        ("timeout", "5", "timeout must be a number of seconds greater than 0, got '5'"),
        ("queue", "", "queue must be the name of a Celery queue, got ''"),
        ("queue", "a\nb", "queue must be the name of a Celery queue, got 'a\\nb'"),
        ("priority", -1, "priority must be an integer of at least 0, got -1"),
        ("priority", 256, "priority must be an integer of at least 0, got 256"),
        ("retries", 10**20, "retries must be an integer of at least 0, got 100000000000000000000"),
        ("retry_policy", 3, "retry_policy must be an object with a next() method, got 3"),
        ("skip_graph_checks", ["terminal_event"], "Unknown graph check names: step 'module_level' skips"),
        ("skip_graph_checks", "dead_end", "Unknown graph check names: step 'module_level' skips"),
    ],
)
def test_unusable_arguments_are_refused_by_name(option: str, value: Any, says: str) -> None:
    text = refused(module_level, **{option: value})

    assert text.startswith(says)
    assert "'module_level'" in text


def test_a_free_function_names_its_workflow() -> None:
    with pytest.raises(WorkflowValidationError, match="To decorate lonely please pass a workflow class to the @step"):

        @step
        def lonely(ev: A) -> None: ...

    with pytest.raises(WorkflowValidationError, match="To decorate helper please pass a workflow class to the @catch_"):

        @catch_error
        def helper(ev: StepFailedEvent) -> None: ...


def test_a_handler_carries_the_steps_it_covers() -> None:
    class Flow(Workflow):
        @catch_error
        async def rest(self, ev: StepFailedEvent) -> StopEvent: ...

        @catch_error(for_steps=["charge"], max_recoveries=3)
        async def some(self, ctx: Ctx[Any], ev: StepFailedEvent) -> A | None: ...

    assert (config_of(Flow.rest).recovers, config_of(Flow.rest).max_recoveries) == (("*",), 1)
    assert (config_of(Flow.some).recovers, config_of(Flow.some).max_recoveries) == (("charge",), 3)
    assert (config_of(Flow.some).num_workers, config_of(Flow.some).retry_policy) == (1, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_recoveries": 0}, "@catch_error max_recoveries must be an integer >= 1, got 0 for handler 'handle'"),
        ({"max_recoveries": True}, "@catch_error max_recoveries must be an integer >= 1, got True"),
        ({"for_steps": "charge"}, "@catch_error for_steps must be None or a list of step name strings, got 'charge'"),
        ({"for_steps": [1]}, "@catch_error for_steps must be None or a list of step name strings, got [1]"),
    ],
)
def test_a_handlers_arguments_are_checked(options: Any, says: str) -> None:
    class Flow(Workflow):
        pass

    with pytest.raises(WorkflowValidationError) as caught:

        @catch_error(workflow=Flow, **options)
        def handle(ev: StepFailedEvent) -> None: ...

    assert str(caught.value).startswith(says)


def test_a_handler_takes_exactly_the_failure() -> None:
    class Flow(Workflow):
        pass

    def other(ev: A) -> None: ...

    def union(ev: StepFailedEvent | A) -> None: ...

    def listed(evs: list[StepFailedEvent]) -> None: ...

    for function in (other, union, listed):
        with pytest.raises(WorkflowValidationError, match=r"must accept StepFailedEvent as its event parameter"):
            catch_error(workflow=Flow)(function)
