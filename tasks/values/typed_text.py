"""Reads text that a person typed by the type of the field: `3` is text if the field is text."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError


def read_typed(text: str, declared: Any) -> Any:
    """The value that a text stands for.

    Args:
        text: The text as it was typed.
        declared: Type of the field; Any if it is not known.

        Returns:
            The text itself if the field is text, or if it is not valid JSON. Else the JSON value, unless it does not
            fit the field and the text does.
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
    """Parse strict JSON.

    Raises:
        ValueError: It is not strict JSON. NaN and infinities, which Python's parser accepts, are not either.
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
