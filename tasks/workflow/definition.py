"""What is known about a workflow before it runs: its steps, its events, and whether they fit together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast, get_args
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from ...orchestration.model.durations import LARGEST_COUNT, is_count
from ...orchestration.model.errors import WorkflowStepDoesNotExistError, WorkflowValidationError
from ..events.event import Event, StartEvent, StopEvent
from ..events.serializers import BaseSerializer
from ..resources.checks import failing_resources, unreadable_configs
from ..resources.resolution import ResourceManager
from ..steps.child_steps import declare_child_steps
from ..steps.decorators import StepConfig
from ..steps.discovery import ClassSteps, bound_step, class_steps, config_of, free_steps, register_free_step, steps_of
from ..values.class_names import qualified_name
from .graph_checks import GraphCheck
from .instrumentation import Instrumentation
from .run_options import OF_CLASS, check_timeout, checked_priority, checked_tags, default_limit, retention_option
from .validation import check_workflow, start_event_class, stop_event_class


@dataclass(frozen=True, slots=True)
class _Checked:
    """What is known about the steps of a class, independent of its instances.

    Attributes:
        start, stop: The event classes with which a run begins and ends.
        valid: Graph checks that were skipped -> whether the workflow has a human in the loop; all other checks passed.
    """

    start: type[StartEvent]
    stop: type[StopEvent]
    valid: dict[frozenset[GraphCheck], bool] = field(default_factory=dict)


#: A class is checked once, however many of its instances run, until its steps change.
_checked: WeakKeyDictionary[ClassSteps, _Checked] = WeakKeyDictionary()


def _checked_class(cls: type) -> _Checked:
    found = class_steps(cls)
    known = _checked.get(found)
    if known is None:
        name, steps = cls.__name__, found.steps
        known = _checked[found] = _Checked(start_event_class(name, steps), stop_event_class(name, steps))
    return known


P = TypeVar("P")


class _GivesWay(Generic[P]):
    """A property that a user's attribute or step with the same name replaces."""

    def __init__(self, read: Callable[[Any], P]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    def __get__(self, workflow: Any, cls: type) -> P:
        return cast(P, self) if workflow is None else self._read(workflow)


def serializer_of(workflow: WorkflowDefinition) -> BaseSerializer | None:
    """The default serializer for snapshots of a workflow's runs; None is JSON."""
    return workflow._serializer


def resources_of(workflow: WorkflowDefinition) -> ResourceManager:
    """The manager of the resources of a workflow's steps: the one passed to the constructor, else its own."""
    return workflow._own_resources if workflow._resource_manager is None else workflow._resource_manager


def state_class_of(cls: type) -> type[BaseModel] | None:
    """The most derived state model among the steps' `Context[State]` annotations; None if there is none.

    Raises:
        ValueError: It does not derive from all the others.
    """
    steps = steps_of(cls)
    named = {config.state_class: name for name, config in steps.items() if config.state_class is not None}
    ordered = sorted(named, key=lambda model: len(model.__mro__), reverse=True)
    if not ordered:
        return None
    if strangers := [model for model in ordered if not issubclass(ordered[0], model)]:
        raise ValueError(
            f"The steps of workflow {cls.__name__!r} must share one state, but {ordered[0].__name__} (step "
            f"{named[ordered[0]]!r}) does not derive from {strangers[0].__name__} (step {named[strangers[0]]!r}). "
            "Annotate them with one model, or with models that derive from each other."
        )
    return ordered[0]


class WorkflowDefinition:
    """The definition half of `Workflow`. `Workflow` (in `workflow.py`) documents the arguments and adds running."""

    #: Whether values that a step got from `ctx.store` and changed in place are written back when the step ends.
    writes_back: ClassVar[bool] = False
    _instrumentation: ClassVar[Instrumentation | None] = None
    _class_timeout: ClassVar[float | None] = OF_CLASS
    _class_options: ClassVar[dict[str, int]] = {}

    def __init__(
        self,
        timeout: float | None = OF_CLASS,
        disable_validation: bool = False,
        verbose: bool = False,
        resource_manager: ResourceManager | None = None,
        num_concurrent_runs: int | None = None,
        runtime: Any = None,
        workflow_name: str | None = None,
        skip_graph_checks: Collection[GraphCheck] | None = None,
        serializer: BaseSerializer | None = None,
    ) -> None:
        timeout = default_limit(self._class_timeout, steps_of(type(self)).values()) if timeout is OF_CLASS else timeout
        check_timeout(timeout)
        _check_num_concurrent_runs(num_concurrent_runs)
        _check_resource_manager(resource_manager)
        self._timeout = timeout
        self._disable_validation = disable_validation
        self._verbose = verbose
        self._resource_manager = resource_manager
        self._own_resources = ResourceManager()
        self._num_concurrent_runs = num_concurrent_runs
        self._runtime = runtime
        self._workflow_name = workflow_name
        self._skip_graph_checks = _checked_skips(skip_graph_checks)
        self._serializer = serializer
        checked = _checked_class(type(self))
        self._start_event_class, self._stop_event_class = checked.start, checked.stop
        self._validated: tuple[int, bool] | None = None
        self._run_options: dict[str, Any] = dict(self._class_options)

    def __init_subclass__(
        cls, *, timeout: float | None = OF_CLASS, retention: float | timedelta | None = None, **arguments: Any
    ) -> None:
        super().__init_subclass__(**arguments)
        if timeout is not OF_CLASS:
            check_timeout(timeout)
            cls._class_timeout = timeout
        if retention is not None:
            cls._class_options = retention_option(retention)
        declare_child_steps(cls, WorkflowDefinition)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _SET_BY_INIT:
                raise WorkflowValidationError(
                    f"{type(self).__name__}.__init__() does not call super().__init__(), which a workflow needs. "
                    "Make super().__init__(**kwargs) its first line."
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def start_and_stop(cls) -> tuple[type[StartEvent], type[StopEvent]]:
        """The event classes with which a run begins and ends.

        Raises:
            WorkflowConfigurationError: The steps do not have exactly one of each.
        """
        checked = _checked_class(cls)
        return checked.start, checked.stop

    @classmethod
    def add_step(cls, func: Callable[..., Any], /) -> None:
        """Register a decorated free function as a step of this class (not of its subclasses).

        Raises:
            WorkflowValidationError: The function is not decorated, or the class already has a step with its name.
        """
        name = func.__name__
        if config_of(func) is None:
            raise WorkflowValidationError(
                f"Step function {name} is missing the `@step` decorator. Decorate it before adding it to "
                f"{cls.__name__!r}; @step(workflow={cls.__name__}) does both."
            )
        if name in (taken := steps_of(cls)):
            raise WorkflowValidationError(
                f"A step {name} is already part of this workflow, please choose another name. Workflow "
                f"{cls.__name__!r} has: {', '.join(taken)}."
            )
        register_free_step(cls, func)

    @property
    def workflow_name(self) -> str:
        """The name under which runs are stored and found, on every machine."""
        return self._workflow_name or qualified_name(type(self))

    @_GivesWay
    def serializer(self) -> BaseSerializer | None:
        """The default serializer for snapshots of its runs; None is JSON."""
        return serializer_of(self)

    @_GivesWay
    def steps(self) -> dict[str, StepConfig]:
        """The steps by name, in alphabetical order."""
        return steps_of(type(self))

    def step_function(self, name: str) -> Callable[..., Any]:
        """The callable of a step: methods bound to this instance, free functions unchanged.

        Raises:
            WorkflowStepDoesNotExistError: The workflow has no step of this name.
        """
        bound = bound_step(self, name)
        if bound is None:
            raise WorkflowStepDoesNotExistError(
                f"Step {name} does not exist. Workflow {type(self).__name__!r} has: {', '.join(steps_of(type(self)))}."
            )
        instrumentation = type(self)._instrumentation
        return bound if instrumentation is None else instrumentation.around(bound)

    @_GivesWay
    def resource_manager(self) -> ResourceManager:
        """The manager of the resources of this instance's steps: the one passed to the constructor, else its own."""
        return resources_of(self)

    @property
    def start_event_class(self) -> type[StartEvent]:
        """The event class with which a run begins."""
        return self._start_event_class

    @property
    def stop_event_class(self) -> type[StopEvent]:
        """The event class with which a run ends."""
        return self._stop_event_class

    def with_options(
        self,
        *,
        tags: Iterable[str] | None = None,
        priority: int | None = None,
        retention: float | timedelta | None = None,
    ) -> Self:
        """A copy whose runs have these options: `flow.with_options(tags=["import"], priority=3).run(…)`.

        Args:
            tags: Texts for finding runs: `umbel.runs(tags=…)`, `umbel runs --tag`. At most 32 of 1 to 100 characters.
                None does not change them.
            priority: Celery priority of the steps that have none of their own, from 0: on Redis 0 is served first, on
                RabbitMQ the highest number. None does not change it.
            retention: How long an ended run is kept, in seconds or as a `timedelta`. None does not change it: the
                class's value, as in `class Flow(Workflow, retention=3600)`, else UMBEL_RETENTION_SECONDS.

        Raises:
            WorkflowValidationError: An option is invalid.
        """
        options = dict(self._run_options)
        if tags is not None:
            options["tags"] = checked_tags(tags)
        if priority is not None:
            options["priority"] = checked_priority(priority)
        if retention is not None:
            options |= retention_option(retention)
        made = copy.copy(self)
        made._run_options = options
        return made

    def run_arguments(self) -> dict[str, Any]:
        """The settings of this instance that are stored with its runs, as arguments of `Runtime.start`."""
        instrumentation = type(self)._instrumentation
        more = {} if instrumentation is None else instrumentation.run_options(self)
        return {
            "timeout_seconds": self._timeout,
            "options": {"timeout": self._timeout, "verbose": self._verbose} | self._run_options | more,
            "num_concurrent_runs": self._num_concurrent_runs,
        }

    @property
    def events(self) -> list[type[Event]]:
        """Every event class that the steps accept or return."""
        found: dict[type[Event], None] = {}
        for config in steps_of(type(self)).values():
            found |= dict.fromkeys([*config.accepted_events, *config.emits])
        return list(found)

    @_GivesWay
    def state_class(self) -> type[BaseModel] | None:
        """The most derived state model among the steps' `Context[State]` annotations; None if there is none.

        Raises:
            ValueError: It does not derive from all the others.
        """
        return state_class_of(type(self))

    def validate(self, *, validate_resource_configs: bool = True, validate_resources: bool = False) -> bool:
        """Check that the steps fit together. Never cached, and done even with `disable_validation=True`.

        Args:
            validate_resource_configs: Also read the files of every `ResourceConfig`.
            validate_resources: Also call the factories of every `Resource`. Blocks until they are done, on a separate
                event loop, even if one is running. Values of plain factories are kept for the steps of this process;
                values that belong to an event loop are created again on the steps' loop.

        Returns:
            Whether the workflow has a human in the loop.

        Raises:
            WorkflowValidationError: The steps do not fit together, a config cannot be read or a resource cannot be
                created; the message lists every problem found by the check that failed.
            ValueError: The steps' state models do not match, see `state_class`; or the dependencies of a resource are
                circular.
        """
        steps = steps_of(type(self))
        human_in_the_loop = check_workflow(type(self).__name__, steps, self._skip_graph_checks)
        state_class_of(type(self))  # raises if the models do not match
        _checked_class(type(self)).valid[self._skip_graph_checks] = human_in_the_loop
        if validate_resource_configs:
            self._refuse_unreadable_configs(steps)
        if validate_resources:
            self._refuse("has resources that cannot be created", failing_resources(steps, resources_of(self)))
        if validate_resource_configs:
            self._validated = (len(free_steps(type(self))), human_in_the_loop)
        return human_in_the_loop

    def _refuse_unreadable_configs(self, steps: dict[str, StepConfig]) -> None:
        self._refuse("has configs that cannot be read", list(unreadable_configs(steps)))

    def _refuse(self, fault: str, problems: list[str]) -> None:
        if problems:
            listed = "\n".join(problems)
            raise WorkflowValidationError(f"Workflow {type(self).__name__!r} {fault}:\n{listed}")

    def ensure_valid(self) -> bool:
        """Validate unless this was done since the last `add_step` or is disabled (then the result is False).

        Steps are checked once per class, configs once per instance.
        """
        if self._disable_validation:
            return False
        cls = type(self)
        # The registry only grows, so its length shows whether a step was added.
        if self._validated is None or self._validated[0] != len(free_steps(cls)):
            found = class_steps(cls)
            checked = _checked.get(found)
            known = None if checked is None else checked.valid.get(self._skip_graph_checks)
            if known is None or cls.validate is not WorkflowDefinition.validate:
                return self.validate()
            self._refuse_unreadable_configs(found.steps)
            self._validated = (len(free_steps(cls)), known)
        return self._validated[1]


def _check_resource_manager(manager: object) -> None:
    if manager is not None and not isinstance(manager, ResourceManager):
        raise WorkflowValidationError(f"resource_manager must be a ResourceManager or None, got {manager!r}.")


#: Attributes that an instance lacks if its `__init__` did not call `WorkflowDefinition.__init__`.
_SET_BY_INIT = frozenset(
    {
        "_timeout",
        "_disable_validation",
        "_verbose",
        "_resource_manager",
        "_runtime",
        "_workflow_name",
        "_start_event_class",
        "_stop_event_class",
        "_validated",
    }
)


def _check_num_concurrent_runs(limit: object) -> None:
    if limit is not None and not is_count(limit):
        raise WorkflowValidationError(
            f"num_concurrent_runs must be an integer greater than 0 or None, got {limit!r}; at most {LARGEST_COUNT:,}."
        )


def _checked_skips(skips: Collection[GraphCheck] | None) -> frozenset[GraphCheck]:
    valid = get_args(GraphCheck)
    unknown = sorted({skips} if isinstance(skips, str) else set(skips or ()) - set(valid))
    if unknown:
        raise WorkflowValidationError(
            f"Unknown graph check names: {', '.join(unknown)}. Valid names are: {', '.join(sorted(valid))}"
        )
    return frozenset(skips or ())
