"""Annotations of steps and factories: the names they may refer to, their values, and the members of a union."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import FrameType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ...orchestration.model.errors import WorkflowValidationError

#: How many frames above the decorator are searched for names of postponed annotations: class body, function, a
#: test's `with` block or a wrapper.
CALLER_FRAMES = 4


def label(function: Callable[..., Any]) -> str:
    """A step function's name in messages: `Order.charge`, without the function around its class."""
    qualname: str = getattr(function, "__qualname__", type(function).__qualname__)
    return qualname.rpartition("<locals>.")[2]


def caller_names(function: Callable[..., Any], frame: FrameType | None) -> dict[str, Any]:
    """The local names that postponed annotations of `function` may refer to.

    Names of the scopes that enclose the function take precedence over module names, as in Python. Other callers (such
    as a wrapper that applies the decorator) only add names that the module does not have.

    Args:
        function: The function being decorated.
        frame: The frame that applied the decorator.
    """
    module: Mapping[str, Any] = getattr(function, "__globals__", {})
    qualname = getattr(function, "__qualname__", "")
    enclosing: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for _ in range(CALLER_FRAMES):
        if frame is None:
            break
        if frame.f_globals is module and qualname.startswith(f"{frame.f_code.co_qualname}."):
            enclosing = {**frame.f_locals, **enclosing}
        else:
            others = {**frame.f_locals, **others}
        frame = frame.f_back
    known = module.keys() | vars(builtins).keys()
    return {name: value for name, value in others.items() if name not in known} | enclosing


def resolved_hints(function: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of a step or a factory, evaluated.

    Args:
        function: The annotated function.
        names: Local names for postponed annotations, see `caller_names`.

    Raises:
        WorkflowValidationError: An annotation cannot be evaluated; the message names the function and any missing name.
    """
    try:
        return get_type_hints(function, localns=dict(names), include_extras=True)
    except NameError as error:
        missing = f" Missing name: {error.name}." if error.name else ""
        raise WorkflowValidationError(
            f"Failed to resolve type annotations for {label(function)}.{missing} Postponed and string annotations "
            "are looked up in the module and around the place of the decorator or of Resource(...): define or import "
            "the name before that, and not only under TYPE_CHECKING."
        ) from error
    except Exception as error:  # an annotation is arbitrary code and may raise anything
        raise WorkflowValidationError(
            f"Failed to resolve type annotations for {label(function)}: {type(error).__name__}: {error}"
        ) from error


def members_of(annotation: Any) -> tuple[list[Any], list[Any]]:
    """The members of a union without None (a plain type is its only member), and all `Annotated` metadata in it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        alternatives, nested = members_of(inner)
        return alternatives, [*metadata, *nested]
    if origin in (Union, UnionType):
        members: list[Any] = []
        found: list[Any] = []
        for argument in get_args(annotation):
            alternatives, nested = members_of(argument)
            members += alternatives
            found += nested
        return members, found
    if _is_alias(annotation):
        return members_of(annotation.__value__)
    return ([] if annotation in (None, NoneType) else [annotation]), []


def allows_none(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return allows_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return any(allows_none(argument) for argument in get_args(annotation))
    return allows_none(annotation.__value__) if _is_alias(annotation) else annotation in (None, NoneType)


def _is_alias(annotation: Any) -> bool:
    """Whether it is a `type X = …` statement's alias (Python 3.12 and newer)."""
    return type(annotation).__name__ == "TypeAliasType"


def show(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else repr(annotation)
