"""Decides which fields pydantic itself writes as JSON and reads back equal, once per class.

Such fields are sent as pydantic writes them, at no extra cost. `exact_values` writes all others, with the names of
their classes beside them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from pathlib import Path
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import TzInfo

from .dict_like_model import DictLikeModel

Fits = Callable[[Any], bool]

SCALARS = frozenset({str, int, float, bool, type(None)})

_OWN_MODULES = f"{__name__.partition('.')[0]}."


@dataclass(frozen=True, slots=True)
class PlainFields:
    """What is known about the declared fields of a class.

    Attributes:
        is_plain: Whether pydantic may write instances at all: reading one runs no user code, and no declaration of the
            class changes a value.
        scalars: Fields whose values JSON has: name and exact classes.
        others: Other fields: name, and a test whether a value comes back equal.
        aliases: Names under which pydantic also accepts fields.
        by_alias: Whether what was written by name may be read by alias too: no alias is the name of another field.
    """

    is_plain: bool
    scalars: tuple[tuple[str, frozenset[type]], ...] = ()
    others: tuple[tuple[str, Fits], ...] = ()
    aliases: frozenset[str] = frozenset()
    by_alias: bool = True

    def fit(self, fields: dict[str, Any]) -> bool:
        """Whether pydantic restores all these values, equal and of the same classes."""
        if not self.is_plain:
            return False
        try:
            for name, allowed in self.scalars:
                if type(fields[name]) not in allowed:
                    return False
            return all(fits(fields[name]) for name, fits in self.others)
        except (KeyError, RecursionError):  # a field that was never set; a value that contains itself
            return False


_known: WeakKeyDictionary[type, PlainFields] = WeakKeyDictionary()


def plain_fields(cls: type[BaseModel]) -> PlainFields:
    """What is known about a model class, determined at first use."""
    known = _known.get(cls)
    if known is None:
        known = _known[cls] = _plain_fields(cls)
    return known


def input_names(cls: type[BaseModel]) -> Iterator[str]:
    """The names under which a new instance takes its fields."""
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    by_alias = cls.model_config.get("validate_by_alias", True)
    for name, field in cls.model_fields.items():
        aliases = list(_aliases(field)) if by_alias else []
        yield from aliases
        if by_name or not aliases:
            yield name


def _aliases(field: FieldInfo) -> Iterator[str]:
    alias = field.validation_alias if field.validation_alias is not None else field.alias
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        if isinstance(choice, AliasPath):
            yield str(choice.path[0])
        elif choice is not None:
            yield choice


def runs_code(cls: type[BaseModel]) -> bool:
    """Whether creating an instance runs user code: `__init__`, validators, `model_post_init`."""
    decorators = cls.__pydantic_decorators__
    validators = [*decorators.field_validators.values(), *decorators.model_validators.values()]
    return (
        bool(cls.__pydantic_custom_init__)
        or not all(map(_is_own, validators))
        or bool(decorators.validators or decorators.root_validators)
        or has_post_init(cls)
    )


def _is_own(decorator: Any) -> bool:
    return str(getattr(decorator.func, "__module__", "")).startswith(_OWN_MODULES)


def has_post_init(cls: type[BaseModel]) -> bool:
    """Whether a class has a user-defined `model_post_init`: pydantic makes one of its own for private attributes."""
    for parent in cls.__mro__[: cls.__mro__.index(BaseModel)]:
        function = parent.__dict__.get("model_post_init")
        if function is not None and getattr(function, "__name__", "") != "init_private_attributes":
            return True
    return False


def _plain_fields(cls: type[BaseModel]) -> PlainFields:
    aliases = {(name, alias) for name, field in cls.model_fields.items() for alias in _aliases(field)}
    by_alias = not any(alias in cls.model_fields and alias != name for name, alias in aliases)
    decorators = cls.__pydantic_decorators__
    serializers = [*decorators.field_serializers.values(), *decorators.model_serializers.values()]
    config = cls.model_config
    if (
        not by_alias
        or runs_code(cls)
        or cls.__pydantic_root_model__
        or not all(map(_is_own, serializers))
        or "__get_pydantic_core_schema__" in vars(cls)
        or config.get("json_encoders")
        or any(config.get(name, "iso8601") != "iso8601" for name in ("ser_json_timedelta", "ser_json_temporal"))
        or any(config.get(name) for name in ("str_to_lower", "str_to_upper", "str_strip_whitespace", "str_max_length"))
    ):
        return PlainFields(False, by_alias=by_alias)
    scalars: list[tuple[str, frozenset[type]]] = []
    others: list[tuple[str, Fits]] = []
    for name, field in cls.model_fields.items():
        kind = None if field.metadata or field.exclude or field.discriminator else _kind(field.annotation, cls)
        if kind is None:
            return PlainFields(False)
        if isinstance(kind, frozenset):
            scalars.append((name, kind))
        else:
            others.append((name, kind))
    return PlainFields(True, tuple(scalars), tuple(others), frozenset(alias for _, alias in aliases))


def _kind(annotation: Any, owner: type[BaseModel]) -> frozenset[type] | Fits | None:
    """The scalar classes of an annotation, or a test for its values; None if pydantic may change or lose some."""
    if annotation is None:
        return frozenset({type(None)})
    if isinstance(annotation, type) and annotation in SCALARS:
        return frozenset({annotation})
    if annotation is Any or annotation is object:
        return is_json
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union(arguments, owner)
    if origin is Literal:
        allowed = {(type(value), value) for value in arguments}
        return (lambda value: (type(value), value) in allowed) if {kind for kind, _ in allowed} <= SCALARS else None
    container = origin or annotation
    if container in (list, set, frozenset, tuple, dict):
        return _container(container, arguments, owner)
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, Enum):
        return _enum(annotation, owner)
    if issubclass(annotation, BaseModel):
        return None if issubclass(annotation, DictLikeModel) else _model(annotation)
    return _TESTS.get(annotation) if annotation is not bytes else _bytes(owner)


def _union(arguments: tuple[Any, ...], owner: type[BaseModel]) -> frozenset[type] | Fits | None:
    kinds = [_kind(argument, owner) for argument in arguments]
    if any(kind is None for kind in kinds):
        return None
    scalars = frozenset().union(*(kind for kind in kinds if isinstance(kind, frozenset)))
    others = [(a, kind) for a, kind in zip(arguments, kinds, strict=True) if not isinstance(kind, frozenset)]
    if not others:
        return scalars
    tests = [kind for _, kind in others if kind is not None]
    forms = [get_origin(argument) or argument for argument, _ in others]
    # Only alternatives that JSON distinguishes: one type and None; or scalars, one list and one dict of JSON values.
    if len(others) > 1 or not scalars <= {type(None)}:
        if any(form not in (list, dict) for form in forms) or len(set(forms)) < len(forms):
            return None
        if not all(_is_native(get_args(argument)) for argument, _ in others):
            return None
    return lambda value: type(value) in scalars or any(test(value) for test in tests)


def _is_native(arguments: tuple[Any, ...]) -> bool:
    return all(argument is Any or argument in (str, int, float, bool) for argument in arguments)


def _container(container: type, arguments: tuple[Any, ...], owner: type[BaseModel]) -> Fits | None:
    if container is dict:
        key, value = arguments or (str, Any)
        if key not in (str, int) or (kind := _kind(value, owner)) is None:
            return None
        inner = _items(kind)
        return lambda found: type(found) is dict and all(type(each) is key for each in found) and inner(found.values())
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        kinds = [_kind(argument, owner) for argument in arguments]
        if any(kind is None for kind in kinds):
            return None
        tests = [_items(kind) for kind in kinds if kind is not None]
        return lambda found: (
            type(found) is tuple
            and len(found) == len(tests)
            and all(test((item,)) for test, item in zip(tests, found, strict=True))
        )
    if (kind := _kind(arguments[0] if arguments else Any, owner)) is None:
        return None
    if container in (set, frozenset) and not isinstance(kind, frozenset):
        return None
    items = _items(kind)
    return lambda found: type(found) is container and items(found)


def _items(kind: frozenset[type] | Fits) -> Fits:
    if isinstance(kind, frozenset):
        return lambda items: kind.issuperset(map(type, items))
    return lambda items: all(map(kind, items))


def is_json(value: Any) -> bool:
    """Whether JSON has the value as it is: it consists of JSON's own classes only."""
    kind = type(value)
    if kind in SCALARS:
        return True
    if kind is list:
        return SCALARS.issuperset(map(type, value)) or all(map(is_json, value))
    return kind is dict and all(type(key) is str for key in value) and all(map(is_json, value.values()))


def _enum(cls: type[Enum], owner: type[BaseModel]) -> Fits | None:
    values = [member.value for member in cls]
    if (
        owner.model_config.get("use_enum_values")
        or issubclass(cls, Flag)
        or not {str, int}.issuperset(map(type, values))
    ):
        return None
    return lambda value: type(value) is cls


def _model(cls: type[BaseModel]) -> Fits:
    # Looked up on use: a model may contain itself.
    def fits(value: Any) -> bool:
        if type(value) is not cls or not (known := plain_fields(cls)).fit(value.__dict__):
            return False
        extra = value.__pydantic_extra__
        return not extra or (known.aliases.isdisjoint(extra) and is_json(extra))

    return fits


def _bytes(owner: type[BaseModel]) -> Fits:
    how = owner.model_config.get("ser_json_bytes", "utf8"), owner.model_config.get("val_json_bytes", "utf8")
    if how == ("utf8", "utf8"):
        return _is_text
    return (lambda value: type(value) is bytes) if how[0] == how[1] else (lambda value: False)


def _is_text(value: Any) -> bool:
    try:
        return type(value) is bytes and isinstance(value.decode(), str)
    except UnicodeDecodeError:
        return False


def _is_of(cls: type) -> Fits:
    return lambda value: type(value) is cls


def is_named(zone: tzinfo | None) -> TypeGuard[timezone]:
    """Whether a zone is an offset that was given a name."""
    return isinstance(zone, timezone) and len(zone.__getinitargs__()) == 2  # type: ignore[attr-defined]  # for pickle


def _is_plain_datetime(value: Any) -> bool:
    if type(value) is not datetime or value.fold or not isinstance(value.tzinfo, timezone | TzInfo | None):
        return False
    zone = value.tzinfo
    return zone is None or ((value.utcoffset() or _NONE) % _MINUTE == _NONE and not is_named(zone))


_NONE, _MINUTE = timedelta(0), timedelta(minutes=1)


def is_standard(value: Any) -> bool:
    """Whether pydantic writes and reads this value exactly; for the classes below, and for bytes as base64."""
    test = _TESTS.get(type(value))
    return test is None or test(value)


_TESTS: dict[type, Fits] = {
    date: _is_of(date),
    datetime: _is_plain_datetime,
    time: lambda value: type(value) is time and value.tzinfo is None and not value.fold,
    timedelta: _is_of(timedelta),
    Decimal: lambda value: type(value) is Decimal and value.is_finite(),
    UUID: _is_of(UUID),
    Path: _is_of(type(Path())),
}
