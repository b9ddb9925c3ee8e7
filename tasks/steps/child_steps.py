"""Workflows as typed attributes of another workflow: `summarizer: Summarizer`.

If a step emits an event of the child's start class, that event starts the child, and the child's stop event returns to
the parent as an event. So the attribute is a step: it accepts the start event, runs the child and returns the stop
event.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from ..events.event import StartEvent, StopEvent
from .decorators import StepConfig
from .signature import EventParameter

# With lazily evaluated annotations, a missing name then affects only its own annotation.
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _EVALUATION = {"format": Format.FORWARDREF}
else:
    _EVALUATION: dict[str, Any] = {}

#: The child steps that a class declares itself, by name.
_DECLARED = "_child_steps"
#: How many frames around a class are searched for the names in its annotations.
_FRAMES = 8


def declared_child_steps(cls: type) -> dict[str, Callable[..., Any]]:
    """The child steps of a class and its bases; a derived class takes precedence."""
    found: dict[str, Callable[..., Any]] = {}
    for ancestor in cls.__mro__[-2::-1]:
        found |= vars(ancestor).get(_DECLARED, {})
    return found


def declare_child_steps(cls: type, base: type) -> None:
    """Read the annotations of a class that has just been created, and store its child steps.

    A child that uses `StartEvent` or `StopEvent` itself is not a step, because that event could not be distinguished
    from the parent's. It is an ordinary attribute.

    Args:
        cls: The class.
        base: The base class of workflows.
    """
    found = {}
    for name, child in _annotated(cls):
        if inspect.isclass(child) and issubclass(child, base):
            start, stop = child.start_and_stop()  # type: ignore[attr-defined]
            if start is not StartEvent and stop is not StopEvent:
                found[name] = _child_step(cls, name, child, start, stop)
    if found:
        setattr(cls, _DECLARED, found)


def _annotated(cls: type) -> Iterator[tuple[str, Any]]:
    try:
        annotations = inspect.get_annotations(cls, **_EVALUATION)
    except Exception:  # lazy evaluation runs arbitrary code; its errors do not concern umbel
        return
    names: Mapping[str, Any] | None = None
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            names = _names_around(cls) if names is None else names
            try:
                alone = type(cls.__name__, (), {"__annotations__": {name: annotation}, "__module__": cls.__module__})
                annotation = get_type_hints(alone, localns=names)[name]
            except Exception:  # arbitrary code; its errors do not concern umbel
                continue
        yield name, annotation


def _names_around(cls: type) -> dict[str, Any]:
    """Local names of the functions around a class."""
    names: dict[str, Any] = {}
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame.f_globals.get("__name__") == cls.__module__:
            names = {**frame.f_locals, **names}
        if frame.f_back is None:
            break
        frame = frame.f_back
    return names


def _child_step(
    cls: type, name: str, child: Callable[[], Any], start: type[StartEvent], stop: type[StopEvent]
) -> Callable[..., Any]:
    async def run_child(self: Any, ctx: Any, ev: StartEvent) -> Any:
        given = getattr(self, name, None)  # an instance set by the parent's constructor or on its class
        return await ctx.run(given if isinstance(given, child) else child(), ev)  # type: ignore[arg-type]

    run_child.__name__, run_child.__qualname__ = name, f"{cls.__qualname__}.{name}"
    run_child.__module__ = cls.__module__
    config = StepConfig(
        name=name,
        function=run_child,
        event_parameters=(EventParameter("ev", (start,)),),
        context_parameter="ctx",
        state_class=None,
        resources=(),
        single_returns=(stop,),
        list_returns=(),
        allows_none=False,
        is_async=True,
        is_child=True,
    )
    run_child._step_config = config  # type: ignore[attr-defined]
    return run_child
