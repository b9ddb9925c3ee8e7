"""`@step` and `@catch_error`: they read a function's signature once and attach a `StepConfig` to the function.

The function itself is unchanged: it can be called, inherited, overridden and tested like any other.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar, get_args, overload

from ...orchestration.model.durations import LARGEST_COUNT, LONGEST_SECONDS, is_count, is_duration
from ...orchestration.model.errors import WorkflowValidationError
from ..events.event import Event, StepFailedEvent
from ..retry.policy import RetryPolicy
from .annotations import caller_names, label
from .correlation import check_join
from .retries import policy_of_retries
from .signature import StepSignature, read_signature

StepGraphCheck = Literal["reachability", "dead_end"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, eq=False)
class StepConfig(StepSignature):
    """Everything a workflow knows about one step: its signature and the decorator's arguments.

    Attributes:
        name: The step's name in its workflow.
        function: The decorated function.
        num_workers: Concurrent executions within one run.
        retry_policy: Consulted after each failed attempt; None means no retry.
        queue: The Celery queue of its tasks; None leaves it to the app's routing, else the deployment's default queue.
        priority: The Celery priority of its tasks.
        timeout_seconds: Time limit of one attempt; None is no limit.
        accept_event_subclasses: Accept subclasses of the declared events, not only the exact classes.
        skip_graph_checks: Graph checks that leave out this step.
        recovers: For `@catch_error`: the steps covered, `("*",)` for all that no other handler names; else empty.
        max_recoveries: How often one lineage of events may be recovered by this handler.
        join_by, within_seconds: For a step with several event parameters: see `step`.
        is_child: The step is a workflow declared as a typed attribute: its start and stop events are not the run's.
    """

    name: str
    function: Callable[..., Any]
    num_workers: int = 4
    retry_policy: RetryPolicy | None = None
    queue: str | None = None
    priority: int | None = None
    timeout_seconds: float | None = None
    accept_event_subclasses: bool = False
    skip_graph_checks: frozenset[StepGraphCheck] = frozenset()
    recovers: tuple[str, ...] = ()
    max_recoveries: int = 1
    join_by: str | None = None
    within_seconds: float | None = None
    is_child: bool = False

    @property
    def accepted_events(self) -> list[type[Event]]:
        """The accepted event classes; for `all_of` one per parameter, so a class may occur twice."""
        return [event for parameter in self.event_parameters for event in parameter.accepts]

    @property
    def emits(self) -> tuple[type[Event], ...]:
        """The event classes it may return, alone or in a list."""
        return tuple(dict.fromkeys([*self.single_returns, *self.list_returns]))

    @property
    def return_types(self) -> list[Any]:
        """The same as `emits`, but `[NoneType]` when it emits none."""
        return list(self.emits) or [type(None)]

    def accepts(self, event_class: type[Event]) -> bool:
        """Whether events of exactly this class are routed to the step."""
        return any(self.matches(event_class, accepted) for accepted in self.accepted_events)

    def matches(self, event_class: type[Event], accepted: type[Event]) -> bool:
        """Whether an event of `event_class` counts as the declared class `accepted`."""
        return event_class is accepted or (self.accept_event_subclasses and issubclass(event_class, accepted))


class StepFunction(Protocol):
    """A function decorated with `@step` or `@catch_error`."""

    _step_config: StepConfig
    __name__: str
    __qualname__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the undecorated function."""


class StepRegistry(Protocol):
    """The type of the argument `workflow`: a `Workflow` class."""

    def add_step(self, func: Callable[..., Any], /) -> None:
        """Register a decorated free function."""


@overload
def step(func: F) -> F: ...


@overload
def step(
    func: None = None,
    *,
    workflow: StepRegistry | None = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    skip_graph_checks: Collection[StepGraphCheck] | None = None,
    accept_event_subclasses: bool = False,
    queue: str | None = None,
    priority: int | None = None,
    timeout: float | None = None,
    join_by: str | None = None,
    within_seconds: float | None = None,
    retries: int | None = None,
    backoff: float | None = None,
) -> Callable[[F], F]: ...


def step(
    func: Callable[..., Any] | None = None,
    *,
    workflow: StepRegistry | None = None,
    num_workers: int = 4,
    retry_policy: RetryPolicy | None = None,
    skip_graph_checks: Collection[StepGraphCheck] | None = None,
    accept_event_subclasses: bool = False,
    queue: str | None = None,
    priority: int | None = None,
    timeout: float | None = None,
    join_by: str | None = None,
    within_seconds: float | None = None,
    retries: int | None = None,
    backoff: float | None = None,
) -> Any:
    """Declare a function to be a step of a workflow. Use it with or without arguments.

    The step's annotations say which events it takes and emits. A method belongs to its `Workflow` class;
    a free function takes no `self` and names its class with `workflow`.

    Args:
        func: The function, if the decorator is used without arguments.
        workflow: For a free function: the workflow class to register it on.
        num_workers: Concurrent executions of this step within one run; further events queue in order. Values above 500
            (`MOST_AT_ONCE` of the plan) have the effect of 500.
        retry_policy: Decides after each failed attempt whether and when to try again.
        skip_graph_checks: `"reachability"` or `"dead_end"`, to leave this step out of that check.
        accept_event_subclasses: Also take subclasses of the declared events.
        queue: Celery queue for this step's tasks.
        priority: Celery priority of this step's tasks.
        timeout: Seconds that one attempt may take; then it fails with `StepTimeoutError`.
        join_by: For a step with several event parameters: the field whose value their events must share. The step runs
            once for each complete set of events with the same value.
        within_seconds: For such a step: how long after its first event a set may be completed. An incomplete set is
            then dropped, with a `JoinExpired` on the stream and to a step that accepts it.
        retries: Instead of a `retry_policy`: how often a failed attempt is repeated; `retries=3` means at most four
            attempts.
        backoff: With `retries`: the factor between successive delays; by default 2.0. The first delay is one second,
            the longest one minute.

    Raises:
        TypeError: `func` is not callable.
        WorkflowValidationError: The signature or an argument is invalid; the message names the step.
    """

    def decorate(function: Callable[..., Any], frame: FrameType | None) -> Callable[..., Any]:
        signature = _signature(function, frame)
        where = label(function)
        _check_num_workers(where, num_workers)
        policy = policy_of_retries(where, retry_policy, retries, backoff)
        _check_placement(where, policy, queue, priority, timeout)
        check_join(where, signature["event_parameters"], join_by, within_seconds)
        config = StepConfig(
            **signature,
            name=function.__name__,
            function=function,
            num_workers=num_workers,
            retry_policy=policy,
            queue=queue,
            priority=priority,
            timeout_seconds=timeout,
            accept_event_subclasses=accept_event_subclasses,
            skip_graph_checks=_checked_skips(where, skip_graph_checks),
            join_by=join_by,
            within_seconds=within_seconds,
        )
        return _attach(function, config, workflow, decorator="step")

    if func is not None:
        return decorate(func, sys._getframe(1))
    return lambda function: decorate(function, sys._getframe(1))


@overload
def catch_error(func: F) -> F: ...


@overload
def catch_error(
    func: None = None,
    *,
    for_steps: list[str] | None = None,
    max_recoveries: int = 1,
    workflow: StepRegistry | None = None,
) -> Callable[[F], F]: ...


def catch_error(
    func: Callable[..., Any] | None = None,
    *,
    for_steps: list[str] | None = None,
    max_recoveries: int = 1,
    workflow: StepRegistry | None = None,
) -> Any:
    """Declare a step that receives the final failures of other steps as `StepFailedEvent`.

    Use it with or without arguments. The step may return any event: the failed step's input again, a substitute result,
    or a `StopEvent`. If it fails itself, the run fails. It does not handle timeouts of the whole run or cancellation.

    Args:
        func: The function, if the decorator is used without arguments.
        for_steps: The steps covered; None covers all that no other handler names.
        max_recoveries: How often one lineage of events may be recovered here before the run fails instead.
        workflow: For a free function: the workflow class to register it on.

    Raises:
        TypeError: `func` is not callable.
        WorkflowValidationError: The signature or an argument is invalid; the message names the handler.
    """

    def decorate(function: Callable[..., Any], frame: FrameType | None) -> Callable[..., Any]:
        signature = _signature(function, frame)
        where = label(function)
        _check_recovery(where, for_steps, max_recoveries)
        config = StepConfig(
            **signature,
            name=function.__name__,
            function=function,
            num_workers=1,
            recovers=("*",) if for_steps is None else tuple(for_steps),
            max_recoveries=max_recoveries,
        )
        if config.kind != "each" or config.accepted_events != [StepFailedEvent]:
            taken = ", ".join(event.__name__ for event in config.accepted_events)
            raise WorkflowValidationError(
                f"@catch_error handler {where!r} must accept StepFailedEvent as its event parameter, and nothing "
                f"else; it takes {'a list of ' if config.kind == 'collect' else ''}{taken}."
            )
        return _attach(function, config, workflow, decorator="catch_error")

    if func is not None:
        return decorate(func, sys._getframe(1))
    return lambda function: decorate(function, sys._getframe(1))


def _signature(function: Callable[..., Any], frame: FrameType | None) -> dict[str, Any]:
    if isinstance(function, staticmethod | classmethod):
        raise WorkflowValidationError(
            f"Step {label(function)!r} is decorated in the wrong order: put @{type(function).__name__} above the "
            "step's decorator."
        )
    if not callable(function):
        raise TypeError(f"Expected a callable object, got {type(function).__name__}")
    if not inspect.isfunction(function):
        raise WorkflowValidationError(
            f"A step must be a function defined with def or async def, got {function!r}. Call it from such a function."
        )
    signature = read_signature(function, caller_names(function, frame))
    return {field.name: getattr(signature, field.name) for field in fields(StepSignature)}


def _attach(
    function: Callable[..., Any], config: StepConfig, workflow: StepRegistry | None, *, decorator: str
) -> Callable[..., Any]:
    function._step_config = config  # type: ignore[attr-defined]  # makes it a StepFunction
    if _is_free(function.__qualname__):
        if workflow is None:
            raise WorkflowValidationError(
                f"To decorate {function.__name__} please pass a workflow class to the @{decorator} decorator. It is a "
                f"function outside a class: write @{decorator}(workflow=YourWorkflow), or make it a method."
            )
        workflow.add_step(function)
    return function


def _is_free(qualname: str) -> bool:
    """Whether a qualified name belongs to a function outside any class (at module level or inside a function)."""
    parent = qualname.rpartition(".")[0]
    return not parent or parent.endswith("<locals>")


def _check_num_workers(where: str, num_workers: int) -> None:
    if not is_count(num_workers):
        raise WorkflowValidationError(
            f"num_workers must be an integer greater than 0, got {num_workers!r} for step {where!r}; at most "
            f"{LARGEST_COUNT:,}."
        )


def _check_placement(
    where: str, retry_policy: RetryPolicy | None, queue: str | None, priority: int | None, timeout: float | None
) -> None:
    if retry_policy is not None and (
        isinstance(retry_policy, type) or not callable(getattr(retry_policy, "next", None))
    ):
        raise WorkflowValidationError(
            f"retry_policy must be an object with a next() method, got {retry_policy!r} for step {where!r}. "
            "Build one with retry_policy(...)."
        )
    if queue is not None and (not isinstance(queue, str) or not queue or not queue.isprintable()):
        raise WorkflowValidationError(f"queue must be the name of a Celery queue, got {queue!r} for step {where!r}.")
    if priority is not None and not (is_count(priority, least=0) and priority <= 255):
        raise WorkflowValidationError(
            f"priority must be an integer of at least 0, got {priority!r} for step {where!r}; at most 255."
        )
    if timeout is not None and not (is_duration(timeout) and timeout > 0):
        raise WorkflowValidationError(
            f"timeout must be a number of seconds greater than 0, got {timeout!r} for step {where!r}; at most "
            f"{LONGEST_SECONDS:,}. Leave it out for no limit."
        )


def _checked_skips(where: str, skips: Collection[StepGraphCheck] | None) -> frozenset[StepGraphCheck]:
    valid = get_args(StepGraphCheck)
    if isinstance(skips, str) or not set(skips or ()) <= set(valid):
        raise WorkflowValidationError(
            f"Unknown graph check names: step {where!r} skips {skips!r}. Valid names are: {', '.join(valid)}."
        )
    return frozenset(skips or ())


def _check_recovery(where: str, for_steps: object, max_recoveries: object) -> None:
    if not is_count(max_recoveries):
        raise WorkflowValidationError(
            f"@catch_error max_recoveries must be an integer >= 1, got {max_recoveries!r} for handler {where!r}; "
            f"at most {LARGEST_COUNT:,}."
        )
    if for_steps is not None and not (isinstance(for_steps, list) and all(isinstance(item, str) for item in for_steps)):
        raise WorkflowValidationError(
            f"@catch_error for_steps must be None or a list of step name strings, got {for_steps!r} for handler "
            f"{where!r}."
        )
