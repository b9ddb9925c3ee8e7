"""Event classes with fields of each kind of value, and values for the fields."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

from pydantic import (
    BaseModel,
    create_model,
)

from support.values.kinds import KINDS
from umbel import Event


def carrier(base: type[BaseModel], kind: str) -> type[BaseModel]:
    """Return a subclass of `base` with fields of this kind in every position."""
    of: Any = KINDS[kind][0]
    name = f"{base.__name__}Of{kind.title().replace(' ', '')}"
    fields: dict[str, Any] = {
        "value": (of, None),
        "several": (list[of], []),
        "perhaps": (of | None if kind not in ("Any", "None") else of, None),
        "named": (dict[str, of], {}),
        "loose": (Any, None),
    }
    return create_model(name, __base__=base, __module__=__name__, **fields)


CARRIERS: dict[str, type[BaseModel]] = {}
for _kind in KINDS:
    _made = carrier(Event, _kind)
    CARRIERS[_kind] = _made
    globals()[_made.__name__] = _made  # looked up by name, like the classes of a program


def filled(kind: str, values: list[Any]) -> dict[str, Any]:
    """Return values for the fields of a carrier."""
    one, two = values
    is_written_by_field = "written by its field" in kind
    return {
        "value": one,
        "several": [one, two],
        "perhaps": two,
        "named": {"a": one, "b": two},
        "loose": None if is_written_by_field else one,
    }


def equal(one: Any, other: Any) -> bool:
    """Return whether two values are equal, including their types, recursively."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseModel):
        dynamic = one.__pydantic_extra__ or {}, other.__pydantic_extra__ or {}
        return equal(one.__dict__, other.__dict__) and equal(*dynamic)
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            equal(key, other_key) and equal(one[key], other[other_key])
            for key, other_key in zip(one, other, strict=True)
        )
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(equal, one, other))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        names = [field.name for field in dataclasses.fields(one)]
        return all(equal(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)
