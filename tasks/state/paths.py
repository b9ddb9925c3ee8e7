"""Dotted paths into a state: `cart.items.0.price`.

Each segment is looked up as a dict's key, else as a key of a model with dynamic data, a list's index, or an attribute.
A key that contains a dot cannot be addressed.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from ..values.dict_like_model import DictLikeModel
from ..values.texts import is_text
from .item_types import Declared

#: Most segments in one path.
MAX_SEGMENTS = 1000


class Absent(LookupError):
    """There is no value at a path."""


def split_path(path: str) -> list[str]:
    """The segments of a path; none for `""`, the whole state.

    Raises:
        ValueError: The path is not text that UTF-8 can carry, or has more than `MAX_SEGMENTS`.
    """
    if not is_text(path):
        raise ValueError(
            f"Path {path!r} is not text. Name a key of the state, 'total', or a place in one of its values, "
            "'cart.items.0.price'; a number as text: str(number)."
        )
    segments = path.split(".") if path else []
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(
            f"Path {path[:40]!r}… has {len(segments)} segments, at most {MAX_SEGMENTS} are allowed. "
            "Keep such a structure as one value and walk it in Python."
        )
    return segments


def follow(value: Any, segments: Sequence[str]) -> Any:
    """The value at a path.

    Raises:
        Absent: A segment does not exist.
    """
    for segment in segments:
        value = _child(value, segment)
    return value


def assign(root: Any, segments: Sequence[str], value: Any) -> None:
    """Set the value at a path, creating a dict for each missing segment before the last.

    A field of a model is validated, whatever the model's configuration says about assignment; so is an item of a list
    or dict whose type such a field declares.

    Raises:
        ValueError: A value on the path cannot hold the next segment, or its type forbids the value. pydantic's
            `ValidationError` is a `ValueError`.
    """
    holder, declared = root, Declared()
    for position, segment in enumerate(segments[:-1]):
        declared = declared.of(holder, segment)
        try:
            holder = _child(holder, segment)
        except Absent:
            # All that is missing is set as one value: its type may be a model, not a dict.
            for each in reversed(segments[position + 1 :]):
                value = {each: value}
            segments = segments[: position + 1]
            break
    else:
        declared = declared.of(holder, segments[-1])
    if isinstance(holder, dict | list) and declared.type is not Any:
        seen = twin(value)
        validated = declared.validated(seen)
        value = value if validated is seen else validated
    _put(holder, segments[-1], value, segments)


def _child(holder: Any, segment: str) -> Any:
    try:
        if isinstance(holder, dict):
            return holder[segment]
        if isinstance(holder, DictLikeModel) and segment in holder:
            return holder[segment]
        if isinstance(holder, list | tuple):
            return holder[int(segment)]
        if segment.startswith("_"):
            raise Absent(segment)
        child = getattr(holder, segment)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise Absent(segment) from error
    if inspect.isroutine(child):  # a method is not part of the state
        raise Absent(segment)
    return child


def _put(holder: Any, segment: str, value: Any, path: Sequence[str]) -> None:
    if isinstance(holder, dict):
        holder[segment] = value
    elif isinstance(holder, list):
        try:
            holder[int(segment)] = value
        except (ValueError, IndexError) as error:
            raise _cannot(path, f"there is a list of {len(holder)} and {segment!r} is no index of it") from error
    elif isinstance(holder, BaseModel) and not segment.startswith("_"):
        _put_on_model(holder, segment, value)
    elif holder is None or isinstance(holder, str | int | float | bytes | tuple | set | frozenset | BaseModel):
        raise _cannot(path, f"a {type(holder).__name__} cannot hold {segment!r}")
    else:
        setattr(holder, segment, value)


def _put_on_model(model: BaseModel, name: str, value: Any) -> None:
    cls = type(model)
    if name in cls.model_fields:
        seen = twin(value)
        cls.__pydantic_validator__.validate_assignment(model, name, seen)
        if model.__dict__[name] is seen:
            model.__dict__[name] = value
    elif isinstance(model, DictLikeModel) and cls.model_config.get("extra") == "allow":
        model[name] = value
    else:
        setattr(model, name, value)  # pydantic refuses a name that the model does not have


def twin(value: Any) -> Any:
    """A copy for the user's validators, which may change their input; the value itself if it cannot be copied."""
    try:
        return deepcopy(value)
    except Exception:  # such a value cannot be written either, except in a field that is excluded from the JSON
        return value


def _cannot(path: Sequence[str], why: str) -> ValueError:
    return ValueError(f"Path {'.'.join(path)!r} cannot be set: {why}")
