"""The types that a model declares for the items of its lists and dicts: a value set by path is validated by them."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, PydanticUserError, TypeAdapter


@dataclass(frozen=True, slots=True)
class Declared:
    """The type that is declared for a place in a state.

    Attributes:
        type: The type; Any if none is declared.
        owner: The model that declares it.
    """

    type: Any = Any
    owner: type[BaseModel] | None = None

    def of(self, holder: Any, segment: str) -> Declared:
        """The type declared for a key, index or field of `holder`, which is the value at this place."""
        if isinstance(holder, BaseModel):
            field = type(holder).model_fields.get(segment)
            return Declared() if field is None else Declared(field.annotation, type(holder))
        return Declared(_item_type(self.type, type(holder)), self.owner)

    def validated(self, value: Any) -> Any:
        """A value as this type has it; the same value where it fits, or where pydantic knows no such type.

        Raises:
            pydantic.ValidationError: The type forbids it.
        """
        if self.type is Any or self.owner is None:
            return value
        try:
            adapter = _adapter(self.type, self.owner)
        except (TypeError, PydanticUserError):  # it cannot be hashed; or is no type for pydantic
            return value
        return adapter.validate_python(value)


@lru_cache(maxsize=256)
def _adapter(declared: Any, owner: type[BaseModel]) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(declared, config=owner.model_config)
    except PydanticUserError:  # a model has a configuration of its own
        return TypeAdapter(declared)


def _item_type(declared: Any, container: type) -> Any:
    """The type of a container's items; Any unless it is clear."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return _item_type(arguments[0], container)
    if origin in (Union, types.UnionType):
        found = {id(each): each for each in (_item_type(one, container) for one in arguments) if each is not Any}
        return next(iter(found.values())) if len(found) == 1 else Any
    if not isinstance(origin, type):
        return Any
    item: Any = Any
    if issubclass(container, dict) and issubclass(origin, Mapping) and len(arguments) == 2:
        item = arguments[1]
    elif issubclass(container, list) and issubclass(list, origin) and issubclass(origin, Sequence | list):
        item = arguments[0]
    return Any if isinstance(item, TypeVar) else item
