"""Values of no declared type as strict JSON, and back exactly: dynamic event data, results of a run, state.

JSON knows None, booleans, numbers, text, lists and objects with text keys. A pydantic model, and the few standard
types below, travel tagged with the name of their class:

    {"__is_pydantic": true, "value": …, "qualified_name": "shop.models.Customer"}

A dict of the user's own that has the key `__is_pydantic` is wrapped as `{"__is_pydantic": false, "value": …}`, so
that nobody can smuggle in a tag. Everything else is refused where it is sent, not where it is missed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ...orchestration.model.envelope import TAG
from .class_names import loaded_class, qualified_name

M = TypeVar("M", bound=BaseModel)

# As tuples: a union is asked several times slower, and this is asked for every value.
_SCALARS = (str, int, float)
_CONTAINERS = (dict, list, tuple)
#: Levels of lists and objects inside each other; JSON parsers give up not far above.
MAX_DEPTH = 200

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"))
    for kind in (bytes, date, datetime, time, timedelta, Decimal, UUID)
}
_ADAPTERS_BY_NAME = {qualified_name(kind): adapter for kind, adapter in _ADAPTERS.items()}


_ADVICE = (
    "Declare it as a field of a type that pydantic can write as JSON, or keep it in a Resource "
    "and send what finds it there."
)


class NotJson(ValueError):
    """A value that JSON cannot carry: where it sits, what is wrong with it, and what one can do.

    Attributes:
        path: Such as `items[3].price`; empty for the value itself.
        problem: What is wrong, as the end of a sentence that begins with the place.
        advice: A sentence that tells how to mend it.
    """

    def __init__(self, problem: str, advice: str, path: str = "") -> None:
        super().__init__(problem, advice, path)
        self.path = path
        self.problem = problem
        self.advice = advice

    def inside(self, place: str) -> Self:
        """The same flaw, seen from one level further out. The path is put together only once there is a flaw."""
        dot = "." if place and self.path and not self.path.startswith("[") else ""
        self.path = f"{place}{dot}{self.path}"
        return self

    def __str__(self) -> str:
        path = self.path if len(self.path) <= 100 else f"{self.path[:100]}…"
        return f"{repr(path) if path else 'it'} {self.problem}. {self.advice}"


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def dump_json(value: Any) -> bytes:
    """Compact UTF-8 JSON. The one place where values become JSON text.

    Args:
        value: Nothing but None, booleans, numbers, text, lists and dicts with text keys.

    Raises:
        NotJson: Something else is in it, or NaN, infinity, half a surrogate pair, or too many levels.
    """
    try:
        encoded = _ENCODER.encode(value).encode()
    except (ValueError, TypeError, RecursionError) as error:
        to_json_value(value)  # says where the flaw is
        raise NotJson(f"cannot be written as JSON ({error})", _ADVICE) from error
    # Counting brackets is quick, and few brackets cannot nest deeply.
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _nests_too_deep(value):
        to_json_value(value)
    return encoded


def to_json_value(value: Any, name: str = "") -> Any:
    """A value of no declared type as strict JSON, classes tagged.

    Tuples become lists; numbers and texts of a subclass become plain.

    Args:
        value: Anything.
        name: What to call the value in an error.

    Raises:
        NotJson: Something in it is neither JSON nor a pydantic model.
    """
    try:
        return _to_json(value, 1)
    except NotJson as flaw:
        flaw.inside(name)
        raise


def to_json_object(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each value of a dict by `to_json_value`; the dict itself stays one, whatever its keys are called.

    Raises:
        NotJson: Something in it is neither JSON nor a pydantic model, or a key is no text.
    """
    return _object(values, 1)


def _to_json(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, _SCALARS):
        _check_scalar(value)
        return value
    if isinstance(value, _CONTAINERS) and depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, (list, tuple)):
        items: list[Any] = []
        try:
            for item in value:
                items.append(_to_json(item, depth + 1))
        except NotJson as flaw:
            flaw.inside(f"[{len(items)}]")
            raise
        return items
    if isinstance(value, dict):
        plain = _object(value, depth)
        return {TAG: False, "value": plain} if TAG in plain else plain
    if isinstance(value, BaseModel):
        return {TAG: True, "value": dump_model(value), "qualified_name": qualified_name(type(value))}
    if adapter := _ADAPTERS.get(type(value)):
        written = adapter.dump_python(value, mode="json")
        return {TAG: True, "value": written, "qualified_name": qualified_name(type(value))}
    raise _not_json(value)


def _object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        _check_key(key)
        try:
            plain[key] = _to_json(item, depth + 1)
        except NotJson as flaw:
            flaw.inside(key)
            raise
    return plain


def from_json_value(value: Any) -> Any:
    """The inverse of `to_json_value`. Never imports.

    A tagged value whose class is not loaded here stays a plain dict, so that a process which only watches can show
    it all the same.

    Raises:
        pydantic.ValidationError: A tagged value no longer fits its class.
    """
    if isinstance(value, list):
        return [from_json_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value or "value" not in value:
        return {key: from_json_value(item) for key, item in value.items()}
    inner = value["value"]
    if value[TAG] is not True:
        return {key: from_json_value(item) for key, item in inner.items()} if isinstance(inner, dict) else inner
    name = str(value.get("qualified_name", ""))
    if adapter := _ADAPTERS_BY_NAME.get(name):
        return adapter.validate_python(inner)
    cls = loaded_class(name, BaseModel)
    return inner if cls is None else load_model(cls, inner)


def dump_model(model: BaseModel, exclude: set[str] | None = None) -> dict[str, Any]:
    """The model's declared fields as JSON that `load_model` reads back, computed fields left out.

    Raises:
        NotJson: A field holds what pydantic cannot write, or the model writes itself as something else than a dict.
    """
    try:
        dumped = model.model_dump(mode="json", by_alias=False, round_trip=True, exclude=exclude)
    except Exception as error:  # pydantic, or a serializer of the user's
        raise _blame(model, error, 1) from error
    if not isinstance(dumped, dict):
        raise NotJson(
            f"writes itself as {type(dumped).__qualname__} instead of a dict",
            f"Let the model_serializer of {type(model).__qualname__} return a dict.",
        )
    return dumped


def load_model(cls: type[M], value: Any) -> M:
    """The inverse of `dump_model`.

    Raises:
        pydantic.ValidationError: The value no longer fits the class.
    """
    # As text: only so do strict models accept what JSON has no type for, such as dates.
    return cls.model_validate_json(dump_json(value), by_alias=True, by_name=True)


def field_problems(error: Exception) -> str:
    """`price: Input should be a valid number; name: Field required`, without the data itself.

    An exception of another kind is named with its class.
    """
    if not isinstance(error, ValidationError):
        return f"{type(error).__qualname__}: {error}"
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'as a whole'}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    )


def _blame(model: BaseModel, error: Exception, depth: int) -> NotJson:
    """Find the field that cannot be written. Slow, and only called once something has gone wrong."""
    for name in type(model).model_fields:
        try:
            model.model_dump(mode="json", by_alias=False, round_trip=True, include={name})
        except Exception as own:
            return _blame_value(getattr(model, name, None), own, depth + 1).inside(name)
    return NotJson(f"cannot be written as JSON ({error})", _ADVICE)


def _blame_value(value: Any, error: Exception, depth: int) -> NotJson:
    if depth > MAX_DEPTH or _nests_too_deep(value):
        return _too_deep()
    if isinstance(value, BaseModel):
        return _blame(value, error, depth)
    for place, child in _children(value):
        if not _is_writable(child):
            return _blame_value(child, error, depth + 1).inside(place)
    if _is_writable(value):
        return NotJson(f"cannot be written as JSON ({str(error).splitlines()[0][:200]})", _ADVICE)
    if isinstance(value, bytes):
        return NotJson(
            "holds bytes that are not UTF-8 text",
            "Give the class model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64').",
        )
    return _not_json(value)


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    return []


def _is_writable(value: Any) -> bool:
    try:
        to_jsonable_python(value)
    except Exception:  # pydantic, or a serializer of the user's
        return False
    return True


def _nests_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(MAX_DEPTH):
        inner = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        # By identity, so that what contains itself twice does not grow.
        level = list({id(child): child for child in inner if isinstance(child, _CONTAINERS)}.values())
    return bool(level)


def _not_json(value: Any) -> NotJson:
    return NotJson(f"holds a {qualified_name(type(value))}, which is not JSON", _ADVICE)


def _too_deep() -> NotJson:
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


def _check_scalar(value: str | int | float | None) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value, "text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"holds {value!r}, which JSON does not have", "Send None or a text instead.")
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise NotJson(f"holds a number of {value.bit_length()} bits, too long to write", "Send it as text.")


#: Python refuses to write or read integers of more than 4,300 digits.
_MAX_BITS = 14_280


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise NotJson(
            f"holds {what} with half a surrogate pair (U+{half:04X}), which UTF-8 cannot carry",
            "Clean it with text.encode('utf-8', 'replace').decode().",
        ) from error
