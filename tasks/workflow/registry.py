"""The workflows that this process can execute, by name, registered as instance, class or factory.

A step's `self` is the worker's own instance, which is built here once and never sent over the wire. A workflow that
cannot be built is an error at startup; the message says how to register it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import ReferenceType, ref

from pydantic import BaseModel

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import WorkflowValidationError
from ...orchestration.model.plan import NOT_ROUTING, NOT_TAKING, Inputs, Plan
from ..events.codec import EventRegistry
from ..steps.decorators import StepConfig
from ..steps.discovery import free_steps, steps_of
from .apart import check_same, constructor_values
from .definition import WorkflowDefinition, state_class_of
from .plan_builder import build_plan, last_part

Registrable = WorkflowDefinition | type[WorkflowDefinition] | Callable[[], WorkflowDefinition]


@dataclass(frozen=True, slots=True)
class Registered:
    """A workflow in this process, with everything needed to execute its steps, looked up once."""

    workflow: WorkflowDefinition
    plan: Plan
    events: EventRegistry
    steps: dict[str, StepConfig]
    functions: dict[str, Callable[..., Any]]
    state_class: type[BaseModel] | None

    @property
    def name(self) -> str:
        """The workflow's name, by which its runs find it."""
        return self.workflow.workflow_name

    def has(self, lacked: str) -> bool:
        """Whether this has what parked work lacks.

        That is an event class, a plan that does not route a certain event, or a step that takes certain events.
        """
        if lacked.startswith(NOT_TAKING):
            return Inputs.from_lacked(lacked).fit(self.plan)
        if not lacked.startswith(NOT_ROUTING):
            return self.events.knows(lacked)
        name, *parents = lacked.removeprefix(NOT_ROUTING).split()
        return not self.plan.accepting(Envelope(name, tuple(parents), b""))


class Registry:
    """Workflows by name. Reading is safe from any thread."""

    def __init__(self, queue_of: Callable[[str], str | None] = lambda _: None) -> None:
        """Args:
        queue_of: The queue of a task whose step names none; None is the deployment's default queue.
        """
        self._queue_of = queue_of
        #: Called with a workflow that a step is about to start and that is not registered here.
        self.prepare: Callable[[WorkflowDefinition], object] = lambda _: None
        #: Whether runs started here may be executed here, each by the instance on which it was started.
        self.executes = False
        self._known: dict[str, Registered] = {}
        #: Workflows that were registered explicitly, not just run.
        self._declared: dict[str, Registrable] = {}
        self._of_runs: dict[str, Registered] = {}
        #: Constructor values of the first instance of each name, if runs are executed elsewhere.
        self._made_with: dict[str, dict[str, Any]] = {}
        self._of_ended: dict[str, ReferenceType[WorkflowDefinition]] = {}
        self._lock = threading.Lock()

    def add(self, workflow: Registrable, *, to_run: bool = False) -> Registered:
        """Register an instance, a class that needs no arguments, or a factory.

        Registering the same workflow again replaces it, and an instance or factory replaces the bare class.

        Args:
            workflow: What to register.
            to_run: It is about to be run here and is kept for that run: any number of instances may share a name.

        Raises:
            WorkflowValidationError: It cannot be built, another class has its name, or another instance or factory is
                registered under it.
        """
        instance = self._build(workflow)
        name = instance.workflow_name
        with self._lock:
            if not to_run and not isinstance(workflow, type):
                other = self._declared.setdefault(name, workflow)
                if other is not workflow:
                    raise WorkflowValidationError(
                        f"Two instances of {_identity(instance)} are registered as {name!r}; either could run it. Give "
                        f"each a name: umbel.register({type(instance).__name__}(…), name='…')."
                    )
            known = self._known.get(name)
            if known is not None and _identity(known.workflow) != _identity(instance):
                raise WorkflowValidationError(
                    f"Two workflows are called {name!r}: {_identity(known.workflow)} and {_identity(instance)}. "
                    "A name is how stored runs find their code; give one of them workflow_name=…"
                )
            if known is not None and _is_same_code(known, instance):
                registered = _with_instance(known, instance)
                if to_run and name in self._declared:
                    return registered  # runs that began elsewhere belong to the registered instance
            else:
                registered = self._read(instance)
            self._known[name] = registered
        return registered

    def of(self, workflow: WorkflowDefinition) -> Registered:
        """The entry for a workflow that is about to be run: the known one if it has the same code, else a new one."""
        known = self._known.get(workflow.workflow_name)
        return known if known is not None and _is_same_code(known, workflow) else self.add(workflow, to_run=True)

    def keep(self, run_id: str, workflow: WorkflowDefinition) -> None:
        """Record that a run begins on this instance: in this process only this instance executes the run.

        Raises:
            WorkflowValidationError: The run is executed elsewhere, and an instance with other constructor values was
                run under the same name before.
        """
        if not self.executes:
            name = workflow.workflow_name
            first = self._made_with.setdefault(name, constructor_values(workflow))
            check_same(name, first, workflow)
            return
        known = self.of(workflow)
        with self._lock:
            self._of_runs[run_id] = _with_instance(known, workflow)

    def run_ended(self, run_id: str) -> None:
        """A run has ended: keep only a weak reference to its instance, in case the run is resumed."""
        with self._lock:
            if (kept := self._of_runs.pop(run_id, None)) is not None:
                self._of_ended[run_id] = ref(kept.workflow)
                if len(self._of_ended) > _MOST_ENDED:
                    del self._of_ended[next(iter(self._of_ended))]

    def _read(self, instance: WorkflowDefinition) -> Registered:
        name = instance.workflow_name
        shared = any(other != name and last_part(other) == last_part(name) for other in self._known)
        steps = steps_of(type(instance))
        plan = build_plan(instance, qualified=shared)
        queued = tuple(replace(step, queue=step.queue or self._queue_of(step.task)) for step in plan.steps)
        return Registered(
            instance,
            replace(plan, steps=queued),
            EventRegistry.of(instance.events),
            steps,
            _functions(instance, steps),
            state_class_of(type(instance)),
        )

    @staticmethod
    def _build(workflow: Registrable) -> WorkflowDefinition:
        if isinstance(workflow, WorkflowDefinition):
            return workflow
        try:
            instance = workflow()
        except TypeError as error:
            name = getattr(workflow, "__qualname__", repr(workflow))
            raise WorkflowValidationError(
                f"Workflow {name} cannot be built in the worker: {error}. Register an instance, "
                f"umbel.register({name}(…)), or a function that makes one, in a module the worker loads."
            ) from error
        if not isinstance(instance, WorkflowDefinition):
            raise WorkflowValidationError(
                f"umbel.register() takes a Workflow, a Workflow class or a function that returns one; "
                f"{workflow!r} returned {type(instance).__name__}."
            )
        return instance

    def find(self, name: str, run_id: str | None = None) -> Registered | None:
        """The workflow with this name, if this process can run it; for a run that began here, its own instance."""
        if run_id is not None:
            kept = self._of_runs.get(run_id)
            if kept is None and (ended := self._of_ended.get(run_id)) is not None and (instance := ended()) is not None:
                kept = _with_instance(self.of(instance), instance)
            if kept is not None and kept.name == name:
                return kept
        return self._known.get(name)

    def task_of(self, workflow: str, step: str) -> str | None:
        """The Celery task name of a step here; it may differ in other processes (`plan_builder.task_name`)."""
        known = self._known.get(workflow)
        plan = None if known is None else known.plan.by_name.get(step)
        return None if plan is None else plan.task

    def __iter__(self) -> Iterator[Registered]:
        return iter(list(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)


def _with_instance(known: Registered, instance: WorkflowDefinition) -> Registered:
    if known.workflow is instance:
        return known
    return replace(known, workflow=instance, functions=_functions(instance, known.steps))


def _functions(instance: WorkflowDefinition, steps: Iterable[str]) -> dict[str, Callable[..., Any]]:
    return {name: WorkflowDefinition.step_function(instance, name) for name in steps}


def _is_same_code(known: Registered, workflow: WorkflowDefinition) -> bool:
    cls = type(workflow)
    return type(known.workflow) is cls and all(name in known.steps for name in free_steps(cls))


def _identity(workflow: WorkflowDefinition) -> str:
    cls = type(workflow)
    return f"{cls.__module__}.{cls.__qualname__}"


#: For how many ended runs the instance is remembered.
_MOST_ENDED = 1000

#: The arguments of `umbel.register()`, which target modules call while they are loaded, before any worker exists.
declared: list[Registrable] = []


def register(workflow: Registrable, *, name: str | None = None) -> Registrable:
    """Register how workers build a workflow: an instance, a class that needs no arguments, or a factory.

    Call it at the top level of a module that the worker loads. A class that needs no arguments is registered
    automatically.

    Args:
        workflow: The workflow.
        name: The name under which its runs are stored and found; each of several instances of a class needs its own.

    Returns:
        Its argument, so that it can decorate a factory.
    """
    declared.append(workflow if name is None else _named(workflow, name))
    return workflow


def _named(workflow: Registrable, name: str) -> Registrable:
    if isinstance(workflow, WorkflowDefinition):
        workflow._workflow_name = name
        return workflow
    make = workflow

    def made() -> WorkflowDefinition:
        instance = make()
        instance._workflow_name = name
        return instance

    return made
