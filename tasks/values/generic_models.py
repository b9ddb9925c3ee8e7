"""Parametrised generic models: `Box[int]` is written as the names of `Box` and `int`, and made of them again.

Such a class exists only where a program has written it out, so that its own name would find it in some processes only.
"""

from __future__ import annotations

import types
from collections import Counter, OrderedDict, defaultdict, deque
from functools import reduce
from operator import or_
from typing import Any, Literal, Union, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from ...orchestration.model.tagged_json import NotJson
from .class_names import is_found_by_name, is_restricted, loaded_class, qualified_name
from .plain_fields import SCALARS

#: Python's own generic classes that may be arguments.
_OWN: dict[str, Any] = {
    qualified_name(kind): kind
    for kind in (list, tuple, set, frozenset, dict, deque, defaultdict, OrderedDict, Counter, type)
}
#: What stands for arguments that are no classes. Names of classes contain a dot.
_OTHERS: dict[str, Any] = {"Any": Any, "None": type(None), "...": ...}
_UNIONS: dict[Any, str] = {types.UnionType: "|", Union: "Union"}  # one class from Python 3.14 on
_LITERAL = "Literal"

_arguments: WeakKeyDictionary[type, list[Any]] = WeakKeyDictionary()


def arguments_of(cls: type[BaseModel]) -> list[Any] | None:
    """The names that `made_of` makes the class of; None if it is not a parametrised generic.

    Raises:
        NotJson: It cannot be made again, because an argument has no name by which others find it.
    """
    if cls.__pydantic_generic_metadata__["origin"] is None:
        return None
    written = _arguments.get(cls)
    if written is None:
        try:
            written = _written(cls)
            again = _read(written)
        except (LookupError, TypeError):
            again = None
        if written is None or again is not cls:
            name = cls.__qualname__.partition("[")[0]
            raise NotJson(
                f"holds a {qualified_name(cls)}, which others cannot make of {name} and its arguments",
                f"Derive a class from it at the top level of a module: class My{name}({cls.__qualname__}).",
            )
        _arguments[cls] = written
    return written


def made_of(name: str, written: Any) -> type[BaseModel] | None:
    """The class of this name, of loaded classes; None if one of them is not loaded, or data from outside name it."""
    if is_restricted():
        return None
    try:
        made = _read(written)
    except Exception:  # a class's own hooks, too
        return None
    return made if isinstance(made, type) and issubclass(made, BaseModel) and qualified_name(made) == name else None


def _written(declared: Any) -> Any:
    """An argument as the name of a class, or as a list: what takes arguments, and they themselves.

    Raises:
        LookupError: It has no name.
    """
    for name, other in _OTHERS.items():
        if declared is other:
            return name
    origin: Any = get_origin(declared)
    arguments: tuple[Any, ...] = get_args(declared)
    if isinstance(declared, type) and issubclass(declared, BaseModel):
        found = declared.__pydantic_generic_metadata__
        origin, arguments = found["origin"], found["args"]
    if origin in _UNIONS:
        return [_UNIONS[origin], *map(_written, arguments)]
    if origin is Literal and SCALARS.issuperset(map(type, arguments)):
        return [_LITERAL, *arguments]
    kind = declared if origin is None else origin
    if not isinstance(kind, type) or not is_found_by_name(kind):
        raise LookupError(declared)
    return qualified_name(kind) if origin is None else [qualified_name(kind), *map(_written, arguments)]


def _read(written: Any) -> Any:
    """The inverse of `_written`. Only models, and Python's own classes, are given arguments.

    Raises:
        LookupError: A class is not loaded here.
    """
    if isinstance(written, str):
        found = _OTHERS.get(written) or loaded_class(written, object)
        if found is None:
            raise LookupError(written)
        return found
    name, *others = written
    if name == _LITERAL:
        return Literal[tuple(others)]
    arguments = tuple(map(_read, others))
    if name == "|":
        return reduce(or_, arguments)
    if name == "Union":
        return Union[arguments]  # noqa: UP007 - pydantic keeps the two apart
    generic = _OWN.get(name) or loaded_class(name, BaseModel)
    if generic is None:
        raise LookupError(name)
    return generic[arguments if len(arguments) > 1 else arguments[0]]
