"""Values without a declared type as strict JSON, and back exactly: dynamic event data, results of a run, state.

A value of a class that JSON lacks is tagged with the name of the class. The walk over lists and dicts is in
`orchestration/model/tagged_json`, the values themselves are in `exact_values`. A value that neither can write is
refused when it is sent, not when it would be missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ...orchestration.model.tagged_json import (
    MAX_DEPTH,
    MORE,
    TAG,
    NotJson,
    from_tagged,
    nests_too_deep,
    tagged,
    to_tagged,
    to_tagged_object,
    too_deep,
)
from .class_names import loaded_class, qualified_name
from .exact_reading import ClassNotLoaded, is_standard_name, names_in, read_exact, value_class
from .exact_values import write_exact
from .plain_fields import is_standard, plain_fields
from .standard_values import ADVICE

M = TypeVar("M", bound=BaseModel)

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"))
    for kind in (bytes, date, datetime, time, timedelta, Decimal, UUID)
}
_ADAPTERS_BY_NAME = {qualified_name(kind): adapter for kind, adapter in _ADAPTERS.items()}


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def dump_json(value: Any) -> bytes:
    """Compact UTF-8 JSON. The one place where values become JSON text.

    Args:
        value: Only None, booleans, numbers, text, lists and dicts with text keys.

    Raises:
        NotJson: It contains something else, NaN, infinity, half a surrogate pair, or too many levels.
    """
    try:
        encoded = _ENCODER.encode(value).encode()
    except (ValueError, TypeError, RecursionError) as error:
        to_json_value(value)  # raises with the place of the flaw
        raise NotJson(f"cannot be written as JSON ({error})", ADVICE) from error
    # Counting brackets is quick, and few brackets cannot nest deeply.
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and nests_too_deep(value):
        to_json_value(value)
    return encoded


def to_json_value(value: Any, name: str = "") -> Any:
    """A value without a declared type as strict JSON, classes tagged.

    Args:
        value: Any value.
        name: What to call the value in an error.

    Raises:
        NotJson: Something in it could not be restored.
    """
    try:
        return to_tagged(value, write_value)
    except NotJson as flaw:
        flaw.inside(name)
        raise


def to_json_object(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each value of a dict by `to_json_value`; the dict itself stays a plain dict, whatever its keys are.

    Raises:
        NotJson: Something in it could not be restored, or a key is not text.
    """
    return to_tagged_object(values, write_value)


def write_value(value: Any) -> Any:
    """A value that JSON lacks, tagged with the name of its class: the `write` of `to_tagged`."""
    kind = type(value)
    if (adapter := _ADAPTERS.get(kind)) and is_standard(value):
        return tagged(qualified_name(kind), adapter.dump_python(value, mode="json"))
    written, mark = write_exact(value)
    if not isinstance(mark, dict):
        if mark in _ADAPTERS_BY_NAME:  # an adapter would not read it back
            return tagged(mark, written) | {MORE: {}}
        return written if mark is None else tagged(mark, written)
    # A plain model needs no further data; one that must be made is not found without them.
    more = {key: each for key, each in mark.items() if key not in ("t", "p") or (key == "p" and "g" in mark)}
    name = mark["t"]
    return tagged(name, written) | ({MORE: more} if more else {})


def from_json_value(value: Any) -> Any:
    """The inverse of `to_json_value`. Never imports.

    A tagged value whose class is not loaded here stays a plain dict, so that a process that only watches can still
    show it.

    Raises:
        pydantic.ValidationError: A tagged value no longer fits its class.
    """
    return from_tagged(value, _MAKE)


def _make(name: str, value: Any, more: Any = None) -> Any:
    if more is None and (adapter := _ADAPTERS_BY_NAME.get(name)):
        return adapter.validate_python(value)
    if more is None and (model := loaded_class(name, BaseModel)) is not None:
        return load_model(model, value)
    try:
        return read_exact(value, {"t": name, **(more or {})})
    except ClassNotLoaded:
        return value


_MAKE: Mapping[str, Callable[..., Any]] = {TAG: _make}


def unloaded_class(value: Any) -> str | None:
    """The first class named in tagged JSON that is not loaded here; `from_json_value` leaves its value a plain dict."""
    missing: list[str] = []

    def look(name: str, inner: Any, more: Any = None) -> None:
        found = [(name, (more or {}).get("g")), *names_in(more)]
        missing.extend(each for each, of in found if not is_standard_name(each) and value_class(each, of) is None)
        from_tagged(inner, {TAG: look})

    from_tagged(value, {TAG: look})
    return missing[0] if missing else None


def dump_model(model: BaseModel, exclude: set[str] | None = None) -> dict[str, Any]:
    """The model's declared fields as JSON that `load_model` reads back, without computed fields.

    Raises:
        NotJson: A field holds what pydantic cannot write, or the model does not write itself as a dict.
    """
    try:
        dumped = model.model_dump(mode="json", by_alias=False, round_trip=True, exclude=exclude)
    except Exception as error:  # pydantic, or a serializer of the user
        raise _blame(model, error, 1) from error
    if not isinstance(dumped, dict):
        raise NotJson(
            f"writes itself as {type(dumped).__qualname__} instead of a dict",
            f"Let the model_serializer of {type(model).__qualname__} return a dict.",
        )
    return dumped


def load_model(cls: type[M], value: Any) -> M:
    """The inverse of `dump_model`. Aliases are accepted too, unless one is the name of another field.

    Raises:
        pydantic.ValidationError: The value no longer fits the class.
    """
    # From text: only then do strict models accept what JSON has no type for, such as dates.
    return cls.model_validate_json(dump_json(value), by_alias=plain_fields(cls).by_alias, by_name=True)


def field_problems(error: Exception) -> str:
    """`price: Input should be a valid number; name: Field required`, without the data itself.

    An error of another kind is shown with its class.
    """
    if not isinstance(error, ValidationError):
        return f"{type(error).__qualname__}: {error}"
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'as a whole'}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    )


def _blame(model: BaseModel, error: Exception, depth: int) -> NotJson:
    """Find the field that cannot be written. Slow, and only called after a failure."""
    for name in type(model).model_fields:
        try:
            model.model_dump(mode="json", by_alias=False, round_trip=True, include={name})
        except Exception as own:
            return _blame_value(getattr(model, name, None), own, depth + 1).inside(name)
    return NotJson(f"cannot be written as JSON ({error})", ADVICE)


def _blame_value(value: Any, error: Exception, depth: int) -> NotJson:
    if depth > MAX_DEPTH or nests_too_deep(value):
        return too_deep()
    if isinstance(value, BaseModel):
        return _blame(value, error, depth)
    for place, child in _children(value):
        if not _is_writable(child):
            return _blame_value(child, error, depth + 1).inside(place)
    if _is_writable(value):
        return NotJson(f"cannot be written as JSON ({str(error).splitlines()[0][:200]})", ADVICE)
    if isinstance(value, bytes):
        return NotJson(
            "holds bytes that are not UTF-8 text",
            "Give the class model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64').",
        )
    return NotJson(f"holds a {qualified_name(type(value))}, which is not JSON", ADVICE)


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    return []


def _is_writable(value: Any) -> bool:
    try:
        to_jsonable_python(value)
    except Exception:  # pydantic, or a serializer of the user
        return False
    return True
