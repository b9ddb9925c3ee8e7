"""Strict JSON in which a value of a class carries the class's name: writing, reading and displaying it.

JSON has None, booleans, numbers, text, lists and objects with text keys. A value of a class is written as

    {"__is_pydantic": true, "value": …, "qualified_name": "shop.models.Customer"}

with one more key, `more`, if constructing the value takes further data. A user's own dict with the key `__is_pydantic`
is wrapped as `{"__is_pydantic": false, "value": …}`, so that it cannot be mistaken for a tagged value. The caller
determines which classes there are and how their values are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

#: Key that marks an object as a value of the class it names.
TAG = "__is_pydantic"
#: Key for the further data needed to construct a tagged value.
MORE = "more"
#: The tag in stored JSON. Bytes without it contain no tagged values and need not be searched for any.
TAG_BYTES = f'"{TAG}"'.encode()

#: Maximum nesting of lists and objects; JSON parsers fail not far above.
MAX_DEPTH = 200

#: Python refuses to write or read integers of more than 4,300 digits.
_MAX_BITS = 14_280

_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = (dict, list, tuple)
_OWN_CONTAINERS = frozenset({dict, list})


class NotJson(ValueError):
    """A value that JSON cannot represent: where it is, what is wrong with it, and how to fix it.

    Attributes:
        path: For example `items[3].price`; empty for the value itself.
        problem: What is wrong, as the rest of a sentence that begins with the path.
        advice: A sentence that says how to fix it.
    """

    def __init__(self, problem: str, advice: str, path: str = "") -> None:
        super().__init__(problem, advice, path)
        self.path = path
        self.problem = problem
        self.advice = advice

    def inside(self, place: str) -> Self:
        """The same error with its path extended by one level. The path is only built when there is an error."""
        dot = "." if place and self.path and not self.path.startswith("[") else ""
        self.path = f"{place}{dot}{self.path}"
        return self

    def __str__(self) -> str:
        path = self.path if len(self.path) <= 100 else f"{self.path[:100]}…"
        return f"{repr(path) if path else 'it'} {self.problem}. {self.advice}"


def tagged(name: str, value: Any, tag: str = TAG) -> dict[str, Any]:
    """The object that represents a value of the class `name`."""
    return {tag: True, "value": value, "qualified_name": name}


def tagged_text(name: str, value: str) -> str:
    """The same as `tagged`, from and to JSON text."""
    return f'{{"{TAG}":true,"value":{value},"qualified_name":{json.dumps(name)}}}'


def to_tagged(
    value: Any,
    write: Callable[[Any], Any],
    tags: Collection[str] = (TAG,),
    deepest: float = MAX_DEPTH,
    depth: int = 1,
) -> Any:
    """A value as JSON.

    Args:
        value: Anything.
        write: Converts what JSON lacks, usually with `tagged`; this includes tuples, and dicts with keys other than
            text.
        tags: A user's own dict that has one of these keys is wrapped.
        deepest: How many levels are allowed.
        depth: The level of `value`.

    Raises:
        NotJson: JSON cannot represent a part of it, or `write` refuses it.
    """
    if type(value) in _SCALARS:
        return checked_scalar(value)
    if type(value) not in _OWN_CONTAINERS:
        return write(value)
    if depth > deepest:
        raise too_deep()
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            return write(value)
        plain = to_tagged_object(value, write, tags, deepest, depth)
        return {TAG: False, "value": plain} if any(tag in plain for tag in tags) else plain
    items: list[Any] = []
    try:
        for item in value:
            items.append(to_tagged(item, write, tags, deepest, depth + 1))
    except NotJson as flaw:
        flaw.inside(f"[{len(items)}]")
        raise
    return items


def to_tagged_object(
    values: Mapping[Any, Any],
    write: Callable[[Any], Any],
    tags: Collection[str] = (TAG,),
    deepest: float = MAX_DEPTH,
    depth: int = 1,
) -> dict[str, Any]:
    """Convert each value of a dict with `to_tagged`; the dict itself is never wrapped, whatever its keys are.

    Raises:
        NotJson: As `to_tagged`, or a key is not text.
    """
    plain: dict[str, Any] = {}
    for key, item in values.items():
        _check_key(key)
        try:
            plain[key] = to_tagged(item, write, tags, deepest, depth + 1)
        except NotJson as flaw:
            flaw.inside(key)
            raise
    return plain


def from_tagged(value: Any, make: Mapping[str, Callable[..., Any]]) -> Any:
    """The inverse of `to_tagged`. A value in none of the forms that it writes stays unchanged.

    Args:
        value: JSON.
        make: By tag: makes a value from the name of its class, its JSON and, if there is any, the further data.
    """
    if isinstance(value, list):
        return [from_tagged(item, make) for item in value]
    if not isinstance(value, dict):
        return value
    name = value.get("qualified_name")
    if isinstance(name, str) and "value" in value:
        for tag, make_value in make.items():
            if value.get(tag) is True:
                return make_value(name, value["value"], *((value[MORE],) if MORE in value else ()))
    return {key: from_tagged(item, make) for key, item in _unwrapped(value).items()}


def untagged(value: Any) -> Any:
    """JSON without the class names: as pydantic itself writes it, and as it is displayed."""
    return from_tagged(value, _PLAIN)


def fields_of(event: Any) -> dict[str, Any]:
    """The fields of an event's value for display: `untagged`, with the dynamic fields beside the declared ones."""
    fields: dict[str, Any] = untagged(event)
    return {name: field for name, field in fields.items() if name != "_data"} | (fields.get("_data") or {})


def _unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    inner = value.get("value")
    return inner if value.get(TAG) is False and len(value) == 2 and isinstance(inner, dict) else value


def _without_name(name: str, value: Any, more: object = None) -> Any:
    # These are a value's fields, never a wrapped dict, whatever their names are.
    return {key: untagged(item) for key, item in value.items()} if isinstance(value, dict) else untagged(value)


_PLAIN: Mapping[str, Callable[..., Any]] = {TAG: _without_name}


def checked_scalar(value: str | int | float | None) -> str | int | float | None:
    """Check a scalar and return it.

    Raises:
        NotJson: It is NaN, infinity, a number too long to write, or text with half a surrogate pair.
    """
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value, "text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"holds {value!r}, which JSON does not have", "Send None or a text instead.")
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise NotJson(f"holds a number of {value.bit_length()} bits, too long to write", "Send it as text.")
    return value


def nests_too_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than `MAX_DEPTH` levels deep."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(MAX_DEPTH):
        inner = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        # By identity, so that the list stays small even if a value contains itself several times.
        level = list({id(child): child for child in inner if isinstance(child, _CONTAINERS)}.values())
    return bool(level)


def too_deep() -> NotJson:
    """The error for a value with more levels than `MAX_DEPTH`."""
    return NotJson(
        f"nests lists and objects deeper than {MAX_DEPTH} levels, or contains itself", "Flatten it, or send it as text."
    )


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise NotJson(
            f"holds a dict with the key {key!r} of type {type(key).__qualname__}; JSON has only text keys",
            f"Use str keys, or declare a field of type dict[{type(key).__qualname__}, …].",
        )
    if not key.isascii():
        _check_text(key, "a key")


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise NotJson(
            f"holds {what} with half a surrogate pair (U+{half:04X}), which UTF-8 cannot carry",
            "Clean it with text.encode('utf-8', 'replace').decode().",
        ) from error
