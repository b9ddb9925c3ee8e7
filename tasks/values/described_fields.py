"""The fields of a model as JSON, for processes that have not loaded its class: names, plain types, required or not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, create_model

M = TypeVar("M", bound=BaseModel)

#: The types that are described. All others become Any: the process that has the class decides how to read them.
_PLAIN: Mapping[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "Decimal": Decimal, "None": None}
_NAMES = {kind: name for name, kind in _PLAIN.items()} | {NoneType: "None"}


def described(cls: type[BaseModel]) -> dict[str, Any]:
    """Describe the fields: name for input -> `{"type": …, "required": …}`.

    The type is a list of alternatives: names of plain types, and lists of the values of a Literal or an Enum. It is
    None if any alternative is something else.
    """
    return {
        each.alias or name: {"type": _described_type(each.annotation), "required": each.is_required()}
        for name, each in cls.model_fields.items()
        if (each.alias or name).isidentifier()
    }


def model_of(description: Mapping[str, Any], name: str, module: str, base: type[M]) -> type[M]:
    """A class with the described fields. Fields that are not required default to None, whatever their type is."""
    fields: dict[str, Any] = {
        field: (_type_of(each["type"]), ... if each["required"] else None) for field, each in description.items()
    }
    with warnings.catch_warnings(action="ignore"):  # pydantic's warnings about names are for the class's author
        return create_model(name, __base__=base, __module__=module, **fields)


def _described_type(declared: Any) -> list[Any] | None:
    found = [_described_member(each) for each in _members(declared)]
    return None if None in found else found


def _described_member(declared: Any) -> Any:
    if get_origin(declared) is Literal:
        values = list(get_args(declared))
    elif isinstance(declared, type) and issubclass(declared, Enum):
        values = [each.value for each in declared]
    else:
        return _NAMES.get(declared) if isinstance(declared, type) else None
    return values if all(type(each) in (str, int, bool) for each in values) else None


def _members(declared: Any) -> Iterator[Any]:
    if get_origin(declared) in (Union, UnionType):
        for each in get_args(declared):
            yield from _members(each)
    elif get_origin(declared) is Annotated:
        yield from _members(get_args(declared)[0])
    else:
        yield declared


def _type_of(members: list[Any] | None) -> Any:
    if members is None:
        return Any
    # Anything else, which a later release may describe, is Any.
    kinds = [Literal[tuple(each)] if isinstance(each, list) else _PLAIN.get(each, Any) for each in members]
    return Union[tuple(kinds)]  # noqa: UP007 - `|` needs them one by one
