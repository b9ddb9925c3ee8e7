"""Rows 1 and 40 again: existing calls still work. umbel's own parameters come after them and have defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from umbel import Context, Workflow, catch_error, step
from umbel.collect import Take
from umbel.context import JsonSerializer
from umbel.events import StopEvent
from umbel.handler import WorkflowHandler
from umbel.resource import Resource, ResourceConfig
from umbel.retry_policy import (
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    RetryPolicy,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_policy,
    retry_unless_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_before_delay,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_incrementing,
    wait_random,
    wait_random_exponential,
)
from umbel.testing import WorkflowTestRunner

Call = Callable[..., Any]

CALLS: list[tuple[Call, Call]] = [
    (
        Workflow,
        lambda timeout=45.0, disable_validation=False, verbose=False, resource_manager=None, num_concurrent_runs=None,
        runtime=None, workflow_name=None, skip_graph_checks=None, serializer=None: 0,
    ),
    (Workflow.run, lambda self, ctx=None, start_event=None, **kwargs: 0),
    (Workflow.validate, lambda self, *, validate_resource_configs=True, validate_resources=False: 0),
    (Workflow.add_step, lambda func: 0),
    (
        step,
        lambda func=None, *, workflow=None, num_workers=4, retry_policy=None, skip_graph_checks=None,
        accept_event_subclasses=False: 0,
    ),
    (catch_error, lambda func=None, *, for_steps=None, max_recoveries=1: 0),
    (Context, lambda workflow, previous_context=None, serializer=None: 0),
    (Context.from_dict, lambda workflow, data, serializer=None: 0),
    (Context.to_dict, lambda self, serializer=None, *, include_state=True: 0),
    (Context.send_event, lambda self, message, step=None: 0),
    (Context.collect_events, lambda self, ev, expected, buffer_id=None: 0),
    (
        Context.wait_for_event,
        lambda self, event_type, waiter_event=None, waiter_id=None, requirements=None, timeout=2000: 0,
    ),
    (Context.write_event_to_stream, lambda self, ev: 0),
    (WorkflowHandler.stream_events, lambda self, expose_internal=False: 0),
    (WorkflowHandler.send_event, lambda self, event, step=None: 0),
    (WorkflowHandler.cancel_run, lambda self, *, timeout=5.0: 0),
    (StopEvent, lambda result=None: 0),
    (Take, lambda n: 0),
    (Resource, lambda factory, cache=True: 0),
    (ResourceConfig, lambda config_file, path_selector=None, label=None, description=None: 0),
    (JsonSerializer, lambda *, allowed_types=None: 0),
    (WorkflowTestRunner, lambda workflow: 0),
]  # fmt: skip

POLICIES: list[tuple[Call, Call]] = [
    (RetryPolicy.next, lambda self, elapsed_time, attempts, error, *, seed=None: 0),
    (retry_policy, lambda retry=None, wait=None, stop=None: 0),
    (retry_if_exception, lambda predicate: 0),
    (retry_if_exception_type, lambda exception_types=Exception: 0),
    (retry_if_not_exception_type, lambda exception_types=Exception: 0),
    (retry_unless_exception_type, lambda exception_types=Exception: 0),
    (retry_if_exception_message, lambda message=None, match=None: 0),
    (retry_if_not_exception_message, lambda message=None, match=None: 0),
    (retry_if_exception_cause_type, lambda exception_types=Exception: 0),
    (wait_fixed, lambda wait: 0),
    (wait_exponential, lambda multiplier=1, exp_base=2, max=60, min=0: 0),
    (wait_incrementing, lambda start=0, increment=100, max=float("inf"): 0),
    (wait_random, lambda min=0, max=1: 0),
    (wait_exponential_jitter, lambda initial=1, exp_base=2, max=60, jitter=1: 0),
    (wait_random_exponential, lambda multiplier=1, exp_base=2, max=60, min=0: 0),
    (stop_after_attempt, lambda max_attempt_number: 0),
    (stop_after_delay, lambda max_delay: 0),
    (stop_before_delay, lambda max_delay: 0),
    (ConstantDelayRetryPolicy, lambda maximum_attempts=3, delay=5: 0),
    (
        ExponentialBackoffRetryPolicy,
        lambda maximum_attempts=5, initial_delay=1.0, multiplier=2.0, max_delay=60.0, jitter=True: 0,
    ),
]


def differences(ours: Call, theirs: Call) -> list[str]:
    """Return what breaks when a call written for `theirs` is made to `ours`."""
    mine, wanted = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    found = [name for name in wanted if name not in mine and wanted[name].kind is not inspect.Parameter.VAR_KEYWORD]
    found += [
        f"{name}={mine[name].default!r}"
        for name in wanted
        if name in mine and mine[name].default != wanted[name].default
    ]
    by_position = [name for name, parameter in wanted.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if (order := list(mine)[: len(by_position)]) != by_position:
        found.append(f"in the order {order}")
    needed = [name for name, parameter in mine.items() if name not in wanted and parameter.default is parameter.empty]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return found + [f"needs {name}" for name in needed if mine[name].kind not in variadic]


@pytest.mark.parametrize(("ours", "theirs"), CALLS, ids=[call.__qualname__ for call, _ in CALLS])
@pytest.mark.row(1)
def test_parameters_have_the_same_names_order_and_defaults(ours: Call, theirs: Call) -> None:
    assert differences(ours, theirs) == []


@pytest.mark.parametrize(("ours", "theirs"), POLICIES, ids=[call.__qualname__ for call, _ in POLICIES])
@pytest.mark.row(40)
def test_parameters_of_retry_policies_have_the_same_names_order_and_defaults(ours: Call, theirs: Call) -> None:
    assert differences(ours, theirs) == []
