"""What a person types for a field, read by the field's type: `3` is text where the field is text."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError


def read_typed(text: str, declared: Any) -> Any:
    """The value that a text means.

    Args:
        text: As it was typed.
        declared: Type of the field; Any if it is not known.

    Returns:
        The text itself where the field is text, or where it is not valid JSON; the JSON where it is a value of the
        field; else the text, if the field can be read from it.
    """
    if declared is str:
        return text
    try:
        value = read_json(text)
    except ValueError:
        return text
    if declared is Any:
        return value
    try:
        field: TypeAdapter[Any] = TypeAdapter(declared, config=ConfigDict(arbitrary_types_allowed=True))
        return text if not _is_valid(field, value, strict=True) and _is_valid(field, text, strict=False) else value
    except (PydanticUserError, PydanticUndefinedAnnotation):
        return value


def read_json(text: str) -> Any:
    """Strict JSON.

    Raises:
        ValueError: It is none. NaN and infinities, which Python's parser would read, are none.
    """
    return json.loads(text, parse_constant=_refuse_constant)


def _is_valid(field: TypeAdapter[Any], value: Any, *, strict: bool) -> bool:
    try:
        field.validate_python(value, strict=strict)
    except ValidationError:
        return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
