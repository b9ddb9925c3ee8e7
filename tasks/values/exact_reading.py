"""Values from their JSON and marks, the inverse of `exact_values`."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from .class_names import is_restricted, loaded_class, qualified_name
from .dict_like_model import DictLikeModel
from .exact_values import BY_FIELD, CONTAINERS, Mark
from .field_values import NOTHING, construct, digest_of, read_by_field
from .generic_models import made_of
from .plain_fields import plain_fields
from .standard_values import ATOMS, is_text_class

M = TypeVar("M", bound=BaseModel)

_CONTAINERS_BY_NAME = {name: kind for kind, name in CONTAINERS.items()}


class ClassNotLoaded(ValueError):
    """Stored data hold a value of a class that this process has not loaded.

    Attributes:
        name: The class.
    """

    def __init__(self, name: str) -> None:
        module = name.rpartition(".")[0]
        super().__init__(f"it holds a {name}, which is not loaded in this process: import {module}")
        self.name = name


def names_in(mark: Any) -> Iterator[tuple[str, Any]]:
    """The names of all classes in a mark, including a mark whose own name was removed; and what they are made of."""
    if isinstance(mark, str):
        if mark != BY_FIELD:
            yield mark, None
    elif isinstance(mark, dict):
        if "t" in mark:
            yield mark["t"], mark.get("g")
        for inner in (
            mark.get("all"),
            *mark.get("in", {}).values(),
            *(key[-1] for key in mark.get("k", ()) if key[1:]),
            *mark.get("a", ())[1:],
        ):
            yield from names_in(inner)


def read_exact(value: Any, mark: Mark) -> Any:
    """The inverse of `write_exact`. Never imports.

    Raises:
        ClassNotLoaded: A class in it is not loaded here, or must not be found.
        Exception: A class in it raised this; or the mark does not fit.
    """
    if mark is None:
        return value
    parts: dict[str, Any] = {"t": mark} if isinstance(mark, str) else mark
    name = parts.get("t")
    if name is None:
        return _read_inside(value, parts)
    if (kind := _CONTAINERS_BY_NAME.get(name)) is not None:
        return _read_container(kind, value, parts)
    if name in ATOMS:
        return ATOMS[name](value, parts.get("n"))
    cls = value_class(name, parts.get("g"))
    if cls is None:
        raise ClassNotLoaded(name)
    return read_instance(cls, value, parts)


def is_standard_name(name: str) -> bool:
    """Whether a name is one of Python's own value classes, which any data may name."""
    return name in _CONTAINERS_BY_NAME or name in ATOMS


def value_class(name: str, arguments: Any = None) -> type[Any] | None:
    """The loaded class of this name, if its values may be sent: creating any other could run arbitrary code.

    Args:
        name: Its name.
        arguments: What it is made of, if it is a parametrised generic.
    """
    made = None if arguments is None else made_of(name, arguments)
    cls: type[Any] | None = made or loaded_class(name, object)
    if cls is None:
        return None
    is_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
    return (
        cls
        if issubclass(cls, BaseModel | Enum) or dataclasses.is_dataclass(cls) or is_tuple or is_text_class(cls)
        else None
    )


def read_instance(cls: Any, value: Any, parts: Mapping[str, Any]) -> Any:
    """Like `read_exact`, for a value whose class is known.

    Raises:
        ClassNotLoaded, Exception: As `read_exact`.
    """
    if issubclass(cls, Enum):
        return cls[parts["n"]] if "n" in parts else cls(value)
    if issubclass(cls, BaseModel):
        return _read_model(cls, value, parts)
    if is_text_class(cls):
        return cls(value)
    if dataclasses.is_dataclass(cls):
        return _read_dataclass(cls, value, parts)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        items = _read_inside(value, parts)
        return cls(*items) if is_restricted() else tuple.__new__(cls, items)
    raise ClassNotLoaded(qualified_name(cls))


def _read_inside(value: Any, parts: Mapping[str, Any]) -> Any:
    if "all" in parts:
        return [read_exact(item, parts["all"]) for item in value]
    inside = parts.get("in")
    if not inside:
        return value
    if isinstance(value, list):
        return [read_exact(item, inside.get(str(index))) for index, item in enumerate(value)]
    return {key: read_exact(item, inside.get(key)) for key, item in value.items()}


def _read_container(kind: type, value: Any, parts: Mapping[str, Any]) -> Any:
    found = _read_inside(value, parts)
    if "k" in parts:
        keys = (read_exact(key[0], key[1] if len(key) > 1 else None) for key in parts["k"])
        found = dict(zip(keys, found.values(), strict=True))
    if kind is deque:
        return deque(found, parts.get("n"))
    if kind is defaultdict:
        return defaultdict(_FACTORIES.get(parts.get("n", "")), found)
    return found if type(found) is kind else kind(found)


_FACTORIES: Mapping[str, type] = {kind.__name__: kind for kind in (list, dict, set, int, float, str, bool, tuple)}


def _read_model(cls: type[M], value: Any, parts: Mapping[str, Any]) -> M:
    if "p" in parts or is_restricted():
        # From text: only then do strict models accept what JSON has no type for, such as dates.
        return cls.model_validate_json(json.dumps(value), by_alias=plain_fields(cls).by_alias, by_name=True)
    if cls.__pydantic_root_model__:
        value = {"root": value}
    value = dict(value)
    marks = dict(parts.get("in", {}))
    folded = value.pop("_data", None) if issubclass(cls, DictLikeModel) else None
    about_extra = marks.pop("", None)
    result = read_exact(value.pop("result"), marks.get("result")) if _keeps_result(cls, value) else None
    if folded is None:
        folded = {name: value.pop(name) for name in list(value) if name not in cls.model_fields}
    return read_fields(cls, value, marks, parts.get("v"), read_exact(folded, about_extra), result)


def _keeps_result(cls: type[BaseModel], value: Mapping[str, Any]) -> bool:
    return "_result" in cls.__private_attributes__ and "result" in value and "result" not in cls.model_fields


def read_fields(
    cls: type[M],
    value: Mapping[str, Any],
    marks: Mapping[str, Any],
    digest: str | None,
    extra: Mapping[str, Any] = NOTHING,
    result: Any = None,
) -> M:
    """The inverse of `write_fields`, with the other parts of a model.

    Args:
        cls: The class.
        value: The fields' JSON.
        marks: Their marks.
        digest: The result of `digest_of` where they were written.
        extra: Undeclared values.
        result: The result of a StopEvent.

    Raises:
        ClassNotLoaded, Exception: As `read_exact`.
    """
    fields = {name: read_field(cls, name, item, marks.get(name)) for name, item in value.items()}
    if digest != digest_of(cls):
        undeclared = {"_data": extra} if issubclass(cls, DictLikeModel) else extra
        kept = {} if result is None else {"result": result}
        found = {**fields, **(undeclared if extra else {}), **kept}
        return cls.model_validate(found, by_alias=plain_fields(cls).by_alias, by_name=True)
    model = construct(cls, fields, extra)
    if result is not None:
        cast(dict[str, Any], model.__pydantic_private__)["_result"] = result
    return model


def read_field(cls: type[BaseModel], name: str, value: Any, mark: Mark) -> Any:
    """Read one field of a model.

    Raises:
        ClassNotLoaded, Exception: As `read_exact`.
    """
    return read_by_field(cls, name, value) if mark == BY_FIELD else read_exact(value, mark)


def _read_dataclass(cls: Any, value: Any, parts: Mapping[str, Any]) -> Any:
    fields = _read_inside(value, parts)
    if parts.get("v") != digest_of(cls) or is_restricted():
        return cls(**fields)
    made = object.__new__(cls)
    for name, each in (fields | (read_exact(*parts["a"]) if "a" in parts else {})).items():
        object.__setattr__(made, name, each)
    return made
