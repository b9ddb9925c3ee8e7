"""`workflows.utils` and `workflows.context.utils`: how LlamaIndex's own packages inspect steps and classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ...orchestration.model.errors import WorkflowValidationError
from ..steps.annotations import resolved_hints
from ..steps.discovery import steps_of
from ..steps.signature import ResourceDefinition, read_signature

#: Seconds between two checks of code that polls; umbel itself never does.
BUSY_WAIT_DELAY = 0.01


@dataclass(frozen=True)
class StepSignatureSpec:
    """What a step accepts and emits.

    Attributes:
        accepted_events: By parameter, its event classes.
        return_types: The event classes it may emit; `[NoneType]` for none.
        context_parameter: The parameter that receives the context, if any.
        context_state_type: `State` of `Context[State]`, if it is typed.
        resources: The injected parameters.
    """

    accepted_events: dict[str, list[Any]]
    return_types: list[Any]
    context_parameter: str | None
    context_state_type: Any | None
    resources: list[ResourceDefinition]


def inspect_signature(fn: Callable[..., Any], localns: dict[str, Any] | None = None) -> StepSignatureSpec:
    """The signature of a step.

    Raises:
        TypeError: `fn` cannot be called.
        WorkflowValidationError: It does not have the signature of a step.
    """
    if not callable(fn):
        raise TypeError(f"Expected a callable object, got {type(fn).__name__}")
    read = read_signature(fn, localns or {})
    emits = list(dict.fromkeys([*read.single_returns, *read.list_returns]))
    return StepSignatureSpec(
        accepted_events={parameter.name: list(parameter.accepts) for parameter in read.event_parameters},
        return_types=emits or [type(None)],
        context_parameter=read.context_parameter,
        context_state_type=read.state_class,
        resources=list(read.resources),
    )


def validate_step_signature(spec: StepSignatureSpec) -> None:
    """Raise `WorkflowValidationError` if it is not the signature of a step."""
    if not spec.accepted_events:
        raise WorkflowValidationError("Step signature must have at least one parameter annotated as type Event")


def get_steps_from_class(_class: type) -> dict[str, Callable[..., Any]]:
    """The step functions of a workflow class by name."""
    return {name: config.function for name, config in steps_of(_class).items()}


def get_steps_from_instance(workflow: object) -> dict[str, Callable[..., Any]]:
    """The step methods of a workflow by name, bound to it."""
    return {name: getattr(workflow, name) for name in steps_of(type(workflow)) if hasattr(workflow, name)}


def is_free_function(qualname: str) -> bool:
    """Whether a function with this qualified name is not a method.

    Raises:
        ValueError: The name is empty.
    """
    if not qualname:
        raise ValueError("The qualified name cannot be empty")
    around = qualname.rpartition(".")[0]
    return not around or around.endswith("<locals>")


def _get_param_types(param: inspect.Parameter, type_hints: Mapping[str, Any]) -> list[Any]:
    hint = type_hints.get(param.name, param.annotation)
    return [Any] if hint is inspect.Parameter.empty else _alternatives(hint)


def _get_return_types(func: Callable[..., Any], localns: dict[str, Any] | None = None) -> list[Any]:
    hint = resolved_hints(func, localns or {}).get("return")
    return [] if hint is None else _alternatives(hint) or [type(None)]


def _alternatives(hint: Any) -> list[Any]:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [member for member in members if member is not type(None)]


def get_qualified_name(value: Any) -> str:
    """`module.Class` of an object."""
    return f"{value.__module__}.{type(value).__name__}"


def import_module_from_qualified_name(qualified_name: str) -> Any:
    """Import what `module.name` names. Never call it with text that somebody else may have written.

    Raises:
        ValueError: The name has no module.
        ImportError: There is no such module.
        AttributeError: The module has no such name.
    """
    module, _, name = qualified_name.rpartition(".")
    if not module:
        raise ValueError("Qualified name must be in format 'module.attribute'")
    return getattr(importlib.import_module(module), name)
