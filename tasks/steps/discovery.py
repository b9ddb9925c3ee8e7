"""Finds the steps of a workflow class: decorated methods, its own and inherited, and registered free functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any, cast

from .decorators import StepConfig

_REGISTRY = "_free_steps"


def steps_of(cls: type) -> dict[str, StepConfig]:
    """The steps of a workflow class by name, in alphabetical order."""
    return {
        name: config if config.name == name else replace(config, name=name)
        for name, (_, config) in _attributes(cls).items()
    }


def bound_step(instance: object, name: str) -> Callable[..., Any] | None:
    """The callable of a step: a method bound to `instance`, or a free function as it is; None if there is none."""
    cls = type(instance)
    found = _attributes(cls).get(name)
    if found is None:
        return None
    raw = found[0] if name in free_steps(cls) else found[0].__get__(instance, cls)
    return cast(Callable[..., Any], raw)


def config_of(function: Any) -> StepConfig | None:
    """The config that a decorator left on a function (also behind a staticmethod or classmethod), if any."""
    plain = function.__func__ if isinstance(function, staticmethod | classmethod) else function
    config = getattr(plain, "_step_config", None)
    return config if isinstance(config, StepConfig) else None


def free_steps(cls: type) -> dict[str, Callable[..., Any]]:
    """The free functions registered on exactly this class; a base class keeps its own to itself."""
    registered: dict[str, Callable[..., Any]] = vars(cls).get(_REGISTRY, {})
    return registered


def register_free_step(cls: type, function: Callable[..., Any]) -> None:
    """Add a free function to the class's own registry."""
    setattr(cls, _REGISTRY, free_steps(cls) | {function.__name__: function})


def _attributes(cls: type) -> dict[str, tuple[Any, StepConfig]]:
    """The steps' raw class attributes and configs, by name.

    Attributes are looked up without calling descriptors, the most derived class winning: a method that overrides a step
    and is not decorated itself is not a step.
    """
    attributes: dict[str, Any] = {}
    for ancestor in reversed(cls.__mro__):
        attributes |= vars(ancestor)
    attributes |= free_steps(cls)
    found = [(name, value, config_of(value)) for name, value in attributes.items()]
    return {name: (value, config) for name, value, config in sorted(found, key=itemgetter(0)) if config is not None}
