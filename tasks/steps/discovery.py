"""Finds the steps of a workflow class: decorated methods, its own and inherited, and registered free functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import is_, itemgetter
from typing import Any, cast

from .child_steps import declared_child_steps
from .decorators import StepConfig

_REGISTRY = "_free_steps"
_READ = "_steps_as_read"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ClassSteps:
    """The steps of a class, and the attributes from which they were read.

    Attributes:
        steps: The steps by name, in alphabetical order.
        raw: Their raw class attributes.
        attributes: All attributes of the class, including inherited ones.
    """

    steps: dict[str, StepConfig]
    raw: dict[str, Any]
    attributes: dict[str, Any]


def class_steps(cls: type) -> ClassSteps:
    """The steps of a class; returns the same object until an attribute of the class or of a base changes."""
    attributes: dict[str, Any] = {}
    for ancestor in cls.__mro__[-2::-1]:  # all but `object`
        attributes |= vars(ancestor)
    attributes |= free_steps(cls) | declared_child_steps(cls)
    attributes.pop(_READ, None)
    known: ClassSteps | None = vars(cls).get(_READ)
    if known is None or not _are_the_same(known.attributes, attributes):
        known = _read(attributes)
        if known.steps:  # a class without steps might not be a workflow and is not modified
            setattr(cls, _READ, known)
    return known


def _are_the_same(some: dict[str, Any], others: dict[str, Any]) -> bool:
    # Not `==`, which would call methods of the attributes.
    return some.keys() == others.keys() and all(map(is_, some.values(), others.values()))


def _read(attributes: dict[str, Any]) -> ClassSteps:
    """The steps among a class's attributes, which are read without calling descriptors.

    The most derived class wins: a method that overrides a step without being decorated itself is not a step.
    """
    found = [(name, value, config_of(value)) for name, value in attributes.items()]
    steps, raw = {}, {}
    for name, value, config in sorted(found, key=itemgetter(0)):
        if config is not None:
            steps[name] = config if config.name == name else replace(config, name=name)
            raw[name] = value
    for name in [name for name, config in steps.items() if config.is_child]:
        if not any(steps[name].event_parameters[0].accepts[0] in config.emits for config in steps.values()):
            del steps[name], raw[name]  # no step emits its start event: the child runs only through ctx.run
    return ClassSteps(steps, raw, attributes)


def steps_of(cls: type) -> dict[str, StepConfig]:
    """The steps of a workflow class by name, in alphabetical order."""
    return class_steps(cls).steps.copy()


def bound_step(instance: object, name: str) -> Callable[..., Any] | None:
    """The callable of a step: a method bound to `instance`, or a free function unchanged; None if there is none."""
    cls = type(instance)
    found = class_steps(cls).raw.get(name)
    if found is None:
        return None
    bound = found if name in free_steps(cls) else found.__get__(instance, cls)
    return cast(Callable[..., Any], bound)


def config_of(function: Any) -> StepConfig | None:
    """The config that a decorator attached to a function, or to one inside a staticmethod or classmethod, if any."""
    plain = function.__func__ if isinstance(function, staticmethod | classmethod) else function
    config = getattr(plain, "_step_config", None)
    return config if isinstance(config, StepConfig) else None


def free_steps(cls: type) -> dict[str, Callable[..., Any]]:
    """The free functions registered on exactly this class, not on its bases."""
    registered: dict[str, Callable[..., Any]] = vars(cls).get(_REGISTRY, {})
    return registered


def register_free_step(cls: type, function: Callable[..., Any]) -> None:
    """Add a free function to the class's own registry."""
    setattr(cls, _REGISTRY, free_steps(cls) | {function.__name__: function})
