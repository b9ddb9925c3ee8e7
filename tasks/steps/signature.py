"""Reads a step function's parameters and return annotation into a `StepSignature`.

Parameters are distinguished by annotation, never by name or position: events, the context, resources. All problems of a
signature are reported here, at decoration, with the step's name; `validation` checks whether steps fit together.
"""

from __future__ import annotations

import collections.abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from ...orchestration.model.errors import WorkflowValidationError
from ...orchestration.model.plan import StepKind
from ..events.event import Event
from .annotations import allows_none, label, members_of, resolved_hints, show
from .collect import All, Collect, Take

_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator)


# Empty, so that reading a signature imports neither contexts nor resources.
class StepContextMarker:
    """Base of `Context`: a step's parameter that is annotated with a subclass receives the step's context."""


class ResourceMarker:
    """Base of resources: an instance in `Annotated[T, marker]` means that the parameter is injected."""


@dataclass(frozen=True)
class EventParameter:
    """A parameter that receives events.

    Attributes:
        name: The parameter's name; values are passed by keyword.
        accepts: The accepted event classes; several for a union.
        cardinality: When a `list[E]` parameter is complete; None for a single event.
        cancel_rest, by: As in `Collect`.
    """

    name: str
    accepts: tuple[type[Event], ...]
    cardinality: All | Take | None = None
    cancel_rest: bool = False
    by: str | None = None


@dataclass(frozen=True)
class ResourceDefinition:
    """An injected parameter `name: Annotated[type, resource]` of a step or of a resource's factory.

    Attributes:
        name: The parameter's name; values are passed by keyword.
        type: The annotated type, without the marker.
        resource: The marker: a `Resource` or a `ResourceConfig`.
    """

    name: str
    type: Any
    resource: ResourceMarker

    @property
    def type_annotation(self) -> Any:
        """The same as `type`."""
        return self.type


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSignature:
    """What a step accepts and emits, read from its annotations.

    Attributes:
        event_parameters: In the order of the signature; never empty.
        context_parameter: Name of the parameter that receives the context, if any.
        state_class: `State` of `Context[State]`; None when the context is not typed.
        resources: The injected parameters.
        single_returns: Event classes of which it may return one event.
        list_returns: Event classes of which it may return a list: a fan-out, with one branch per element.
        allows_none: Whether None is in the return annotation.
        is_async: Whether it is a coroutine function. A plain function may still return an awaitable.
    """

    event_parameters: tuple[EventParameter, ...]
    context_parameter: str | None
    state_class: type[BaseModel] | None
    resources: tuple[ResourceDefinition, ...]
    single_returns: tuple[type[Event], ...]
    list_returns: tuple[type[Event], ...]
    allows_none: bool
    is_async: bool

    @property
    def kind(self) -> StepKind:
        """`each` takes one event, `collect` one `list[E]`, `all_of` several events."""
        if len(self.event_parameters) > 1:
            return "all_of"
        return "each" if self.cardinality is None else "collect"

    @property
    def cardinality(self) -> All | Take | None:
        """For a `collect` step: when its list is complete."""
        return self.event_parameters[0].cardinality


def read_signature(function: Callable[..., Any], names: Mapping[str, Any]) -> StepSignature:
    """Read the signature of a step.

    Args:
        function: The undecorated function.
        names: Local names for postponed annotations, see `caller_names`.

    Raises:
        WorkflowValidationError: An annotation cannot be resolved, or the signature is not a step's.
    """
    hints = resolved_hints(function, names)
    parameters = _Parameters(label(function))
    for index, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        unannotated = parameter.annotation is inspect.Parameter.empty
        if name in ("self", "cls") or (index == 0 and unannotated):
            continue
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            parameters.read(parameter, hints.get(name, Any))
    parameters.check()
    returns = _read_returns(function, hints)
    return StepSignature(
        event_parameters=tuple(parameters.events),
        context_parameter=parameters.context,
        state_class=parameters.state_class,
        resources=tuple(parameters.resources),
        single_returns=returns.single,
        list_returns=returns.listed,
        allows_none=returns.allows_none,
        is_async=inspect.iscoroutinefunction(function),
    )


class _Parameters:
    """Sorts the parameters of one step by kind."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.events: list[EventParameter] = []
        self.context: str | None = None
        self.state_class: type[BaseModel] | None = None
        self.resources: list[ResourceDefinition] = []
        self.unknown: list[inspect.Parameter] = []

    def read(self, parameter: inspect.Parameter, annotation: Any) -> None:
        """Add one parameter to its kind."""
        name = parameter.name
        alternatives, metadata = members_of(annotation)
        resource = injected(name, annotation)
        collect = next((item for item in metadata if isinstance(item, Collect)), None)
        only = alternatives[0] if len(alternatives) == 1 else None
        elements = _events_of(get_args(only)) if get_origin(only) is list else ()
        if resource is not None:
            self.resources.append(resource)
        elif elements:
            how = collect or Collect()
            about = self._cardinality(name, how), how.cancel_rest, how.by
            self.events.append(EventParameter(name, elements, *about))
        elif collect is not None:
            raise WorkflowValidationError(
                f"Parameter {name!r} carries a Collect marker but is not annotated as list[E] of an Event subclass: "
                f"step {self.where!r} declares {show(annotation)}. Write Annotated[list[YourEvent], Collect(...)]."
            )
        elif _is_context(only):
            self._read_context(name, only)
        elif events := _events_of(alternatives):
            self.events.append(EventParameter(name, events))
        elif parameter.default is inspect.Parameter.empty:
            self.unknown.append(parameter.replace(annotation=annotation))

    def check(self) -> None:
        """Check the parameters as a whole."""
        collects = [parameter for parameter in self.events if parameter.cardinality is not None]
        if not self.events:
            raise WorkflowValidationError(
                f"Step signature must have at least one parameter annotated as type Event: step {self.where!r} "
                f"{self._shown_unknown() or 'has none'}. Annotate the parameter that receives the event with an "
                "Event subclass, a union of them, or list[...] of them."
            )
        if len(collects) > 1:
            raise WorkflowValidationError(
                "A step may declare at most one collection (list[E]) collect parameter, but found both "
                f"{collects[0].name!r} and {collects[1].name!r} in step {self.where!r}. "
                "Collect a union (list[A | B]) in one parameter, or use two steps."
            )
        if collects and len(self.events) > 1:
            raise WorkflowValidationError(
                "A collection (list[E]) collect parameter cannot be combined with other event parameters: step "
                f"{self.where!r} has {self._shown_events()}. Use a single list[E] parameter, or single-event "
                "parameters only."
            )
        for parameter in self.events if len(self.events) > 1 else ():
            if len(parameter.accepts) > 1:
                raise WorkflowValidationError(
                    "Collect-mode steps (more than one event parameter) require each event parameter to declare a "
                    f"single event type, but parameter {parameter.name!r} of step {self.where!r} declares "
                    f"{len(parameter.accepts)}. Give it one class, or take the union as the step's only event."
                )
        if self.unknown:
            raise WorkflowValidationError(
                f"Step {self.where!r} {self._shown_unknown()}, for which no value exists. A step takes events, a "
                "Context and Annotated[..., Resource(...)]; give other parameters a default."
            )

    def _read_context(self, name: str, annotation: Any) -> None:
        if self.context is not None:
            raise WorkflowValidationError(
                f"Step {self.where!r} has two Context parameters, {self.context!r} and {name!r}. Keep one of them."
            )
        self.context = name
        state = next(iter(get_args(annotation)), None)
        if isinstance(state, type) and issubclass(state, BaseModel):
            self.state_class = state
        elif isinstance(state, type) and state is not Any:
            raise WorkflowValidationError(
                f"Step {self.where!r} declares Context[{show(state)}], but state is kept in a pydantic model. "
                f"Derive {show(state)} from pydantic.BaseModel, or annotate with plain Context."
            )

    def _cardinality(self, name: str, collect: Collect) -> All | Take:
        cardinality = collect.cardinality
        if isinstance(cardinality, All | Take):
            return cardinality
        raise WorkflowValidationError(
            f"Collect cardinality on {name!r} must be All() or Take(n), got {cardinality!r} in step {self.where!r}."
        )

    def _shown_events(self) -> str:
        return ", ".join(repr(parameter.name) for parameter in self.events)

    def _shown_unknown(self) -> str:
        shown = ", ".join(f"{item.name}: {show(item.annotation)}" for item in self.unknown)
        return f"takes {shown}" if shown else ""


@dataclass(frozen=True)
class _Returns:
    single: tuple[type[Event], ...]
    listed: tuple[type[Event], ...]
    allows_none: bool


def _read_returns(function: Callable[..., Any], hints: Mapping[str, Any]) -> _Returns:
    where = label(function)
    if "return" not in hints:
        raise WorkflowValidationError(
            "Return types of workflows step functions must be annotated with their type: step "
            f"{where!r} has no return annotation. Add `-> YourEvent`, or `-> None` if it emits nothing."
        )
    annotation = hints["return"]
    alternatives, _ = members_of(annotation)
    origins = [get_origin(item) or item for item in alternatives]
    if any(origin in _STREAMS for origin in origins) or inspect.isasyncgenfunction(function):
        raise WorkflowValidationError(
            f"Async-iterator fan-out is not supported: step {where!r} yields its events. Return them as list[E], or "
            "send each with ctx.send_event."
        )
    single: list[type[Event]] = []
    listed: list[type[Event]] = []
    for alternative in alternatives:
        is_list = get_origin(alternative) is list
        events = _events_of(get_args(alternative) if is_list else (alternative,))
        if not events:
            raise WorkflowValidationError(
                f"Step {where!r} is annotated to return {show(alternative)}, which is not an Event. Return Event "
                "classes, list[...] of them, or None."
            )
        (listed if is_list else single).extend(events)
    return _Returns(
        single=tuple(dict.fromkeys(single)),
        listed=tuple(dict.fromkeys(listed)),
        allows_none=allows_none(annotation),
    )


def injected(name: str, annotation: Any) -> ResourceDefinition | None:
    """The resource that a parameter's annotation asks for, if any."""
    resource = next((item for item in members_of(annotation)[1] if isinstance(item, ResourceMarker)), None)
    if resource is None:
        return None
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return ResourceDefinition(name, plain, resource)


def _events_of(annotations: Sequence[Any]) -> tuple[type[Event], ...]:
    """The event classes named by `annotations`; empty if they name anything else."""
    members = [member for annotation in annotations for member in members_of(annotation)[0]]
    if all(isinstance(member, type) and issubclass(member, Event) for member in members):
        return tuple(dict.fromkeys(members))
    return ()


def _is_context(annotation: Any) -> bool:
    found = get_origin(annotation) or annotation
    return isinstance(found, type) and issubclass(found, StepContextMarker)
