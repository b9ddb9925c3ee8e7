"""Values as JSON with the names of their classes beside it, and back without running user code.

A value becomes two things. The JSON is close to what pydantic writes; people and other programs see it. The *mark*
says what JSON does not: None if JSON has the value as it is, else the name of its class, or a dict of

    t   the name of the class; absent for a plain list or dict in which something is marked
    in  the marks of its contents, by field, key or index
    all the mark that every item of a list has
    k   the keys of a dict if they are not text, each with its mark
    n   further data needed to create the value: the member of an enum, the zone of a time, the length of a deque
    v   a digest of the fields of the class
    a   the attributes of a dataclass that are no fields, and the mark of that dict
    g   the names of which a parametrised generic class is made

A model or dataclass whose class still has the same fields is rebuilt from its fields: constructors, validators and
`model_post_init` have seen these values before. After a change of the class it is validated. A value of any other kind
is written and read by the field that holds it (mark `@`), if that restores an equal value.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import datetime, time
from enum import Enum
from inspect import ismemberdescriptor
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ...orchestration.model.tagged_json import MAX_DEPTH, NotJson, too_deep
from .class_names import is_found_by_name, qualified_name
from .dict_like_model import DictLikeModel
from .field_values import construct, digest_of, is_computed, read_by_field
from .generic_models import arguments_of
from .plain_fields import SCALARS, plain_fields
from .standard_values import ADVICE, Refused, atom_of, vars_of

Mark = str | dict[str, Any] | None
Written = tuple[Any, Mark]

#: Marks a value that is written and read by the field that holds it.
BY_FIELD = "@"

CONTAINERS: dict[type, str] = {
    kind: qualified_name(kind) for kind in (tuple, set, frozenset, deque, OrderedDict, Counter, defaultdict, dict)
}


def write_exact(value: Any, depth: int = 1) -> Written:
    """A value as JSON and its mark.

    Args:
        value: Any value.
        depth: Its nesting level in the data sent.

    Raises:
        NotJson: Something in it could not be restored; the error names the place. Numbers and texts that JSON cannot
            represent are left to the encoder.
    """
    kind = type(value)
    if kind in SCALARS:
        return value, None
    if depth > MAX_DEPTH:
        raise too_deep()
    if kind is list:
        return _write_items(value, None, depth)
    if isinstance(value, dict):
        return _write_dict(value, depth)
    if kind in CONTAINERS:
        limit = {"n": value.maxlen} if isinstance(value, deque) and value.maxlen is not None else {}
        return _write_items(value, CONTAINERS[kind], depth, **limit)
    if isinstance(value, Enum):
        return _write_enum(value, depth)
    if isinstance(value, BaseModel):
        return _write_model(value, depth)
    if (atom := atom_of(value)) is not None:
        return atom.value, {"t": atom.name, "n": atom.more} if atom.more is not None else atom.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _write_dataclass(value, depth)
    if isinstance(value, tuple) and hasattr(kind, "_fields") and not vars_of(value):
        return _write_items(value, _findable(kind), depth)
    raise NotJson(f"holds a {qualified_name(kind)}, which is not JSON", ADVICE)


def _write_items(items: Iterable[Any], name: str | None, depth: int, **more: Any) -> Written:
    values = list(items)
    inside: dict[str, Any] = {}
    if not SCALARS.issuperset(map(type, values)):
        for index, item in enumerate(values):
            try:
                values[index], mark = write_exact(item, depth + 1)
            except NotJson as flaw:
                raise flaw.inside(f"[{index}]") from None
            if mark is not None:
                inside[str(index)] = mark
    return values, _mark(name, inside, len(values), **more)


def _mark(name: str | None, inside: dict[str, Any], length: int = 0, **more: Any) -> Mark:
    mark: dict[str, Any] = {} if name is None else {"t": name}
    if inside:
        first = next(iter(inside.values()))
        if 1 < length == len(inside) and all(_same_mark(each, first) for each in inside.values()):
            mark["all"] = first
        else:
            mark["in"] = inside
    mark |= more
    return name if mark == {"t": name} else mark or None


def _same_mark(one: Mark, other: Mark) -> bool:
    # The keys of a dict are in its mark: 1, True and 1.0 are equal, but not the same.
    return one == other and (not isinstance(one, dict) or json.dumps(one) == json.dumps(other))


def _write_dict(found: dict[Any, Any], depth: int) -> Written:
    kind = type(found)
    name = None if kind is dict else CONTAINERS.get(kind)
    if name is None and kind is not dict:
        raise NotJson(f"holds a {qualified_name(kind)}, which is not JSON", "Send a dict.")
    more: dict[str, Any] = {}
    if isinstance(found, defaultdict) and found.default_factory is not None:
        factory = found.default_factory
        if factory not in (list, dict, set, int, float, str, bool, tuple):
            raise NotJson(
                "holds a defaultdict whose default_factory is not one of Python's own classes", "Send a dict."
            )
        more["n"] = factory.__name__
    is_text = all(type(key) is str for key in found)
    keys: list[Any] = []
    written: dict[str, Any] = {}
    inside: dict[str, Any] = {}
    for key, item in found.items():
        if is_text:
            text = cast(str, key)
        else:
            try:
                keys.append(write_exact(key, depth + 1))
            except NotJson as flaw:
                raise NotJson(f"holds a dict with a key that {flaw.problem}", flaw.advice) from None
            text = _key_text(key, keys[-1][0])
            while text in written:
                text += "'"
        try:
            written[text], mark = write_exact(item, depth + 1)
        except NotJson as flaw:
            raise flaw.inside(text) from None
        if mark is not None:
            inside[text] = mark
    if not is_text:
        more["k"] = [[key] if mark is None else [key, mark] for key, mark in keys]
    return written, _mark(name if is_text or name else "builtins.dict", inside, **more)


def _key_text(key: Any, written: Any) -> str:
    """The key as pydantic writes it, for readers of the JSON alone."""
    try:
        return str(next(iter(to_jsonable_python({key: None}))))
    except Exception:  # a class that only its own field can write
        return json.dumps(written, ensure_ascii=False)


def _write_enum(value: Enum, depth: int) -> Written:
    kind = type(value)
    name = _findable(kind)
    shown = value.value if type(value.value) in SCALARS else _shown(value, depth)
    if value.name is not None and kind.__members__.get(value.name) is value:
        return shown, {"t": name, "n": value.name}
    if type(value.value) is int:  # several flags at once
        return shown, name
    raise NotJson(f"holds {value!r}, which is not a member of {qualified_name(kind)}", "Send one of its members.")


def _shown(member: Enum, depth: int) -> Any:
    """A member for readers without its class: its value as pydantic writes it, or its name if JSON has no such."""
    try:
        shown, _ = write_exact(member.value, depth + 1)
        json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()
    except (NotJson, ValueError):
        return member.name
    return shown


def _write_model(model: BaseModel, depth: int) -> Written:
    cls = type(model)
    made_of = arguments_of(cls)
    more: dict[str, Any] = {} if made_of is None else {"g": made_of}
    name = qualified_name(cls) if made_of else _findable(cls)
    if cls.__pydantic_root_model__:
        written, inside = write_fields(model, depth)
        return written.get("root"), {"t": name, "v": digest_of(cls), "in": inside, **more}
    if plain_fields(cls).fit(model.__dict__) and not model.__pydantic_extra__ and not _kept_result(model):
        return model.model_dump(mode="json", by_alias=False, round_trip=True), {"t": name, "p": 1, **more}
    written, inside = write_fields(model, depth)
    extra = model.__pydantic_extra__ or {}
    if extra:
        values, mark = write_exact(extra, depth)
        if isinstance(model, DictLikeModel):
            written["_data"] = values
        else:
            written |= values
        if isinstance(mark, dict):
            inside[""] = mark
    if result := _kept_result(model):
        written["result"], mark = write_exact(result[0], depth + 1)
        if mark is not None:
            inside["result"] = mark
    return written, _mark(name, inside, v=digest_of(cls), **more)


def write_fields(model: BaseModel, depth: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """The declared fields of a model as JSON, and the marks of those fields that have one.

    Raises:
        NotJson: As `write_exact`.
    """
    written: dict[str, Any] = {}
    inside: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        if name not in model.__dict__:
            continue
        try:
            written[name], mark = write_field(model, name, depth)
        except NotJson as flaw:
            if field.exclude and not field.is_required():
                continue  # excluded on purpose; the receiver uses the default
            raise flaw.inside(name) from None
        if mark is not None:
            inside[name] = mark
    return written, inside


def write_field(model: BaseModel, name: str, depth: int = 1) -> Written:
    """Write one field of a model.

    Raises:
        NotJson: As `write_exact`.
    """
    try:
        return write_exact(model.__dict__[name], depth + 1)
    except Refused:
        raise
    except NotJson:
        if (found := _written_by_field(model, name)) is None:
            raise
        return found


def _kept_result(model: BaseModel) -> tuple[Any] | None:
    """The result of a StopEvent, which is in a private attribute."""
    private = model.__pydantic_private__ if isinstance(model, DictLikeModel) else None
    result = (private or {}).get("_result")
    return None if result is None else (result,)


def _write_dataclass(value: Any, depth: int) -> Written:
    cls = type(value)
    name = _findable(cls)
    others = dict(vars_of(value)) | {slot: getattr(value, slot) for slot in _slots(cls) if hasattr(value, slot)}
    written: dict[str, Any] = {}
    inside: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        others.pop(field.name, None)
        if not hasattr(value, field.name):
            continue  # never set: nor will it be where it arrives
        try:
            written[field.name], mark = write_exact(getattr(value, field.name), depth + 1)
        except NotJson as flaw:
            raise flaw.inside(field.name) from None
        if mark is not None:
            inside[field.name] = mark
    more: dict[str, Any] = {"v": digest_of(cls)}
    if others := {each: found for each, found in others.items() if not is_computed(cls, each)}:
        more["a"] = list(write_exact(others, depth + 1))
    return written, _mark(name, inside, **more)


def _slots(cls: type) -> tuple[str, ...]:
    """The names of a dataclass's slots, of which some may be no fields.

    Raises:
        NotJson: Its instances have contents besides their attributes.
    """
    slots = _known_slots.get(cls)
    if slots is None:
        try:
            object.__new__(cls)
        except TypeError:
            base = next(each for each in cls.__mro__ if each.__module__ == "builtins")
            raise NotJson(
                f"holds a {qualified_name(cls)}, a dataclass that is also {qualified_name(base)}: not all of its "
                "contents are fields",
                f"Derive it from no such class, and make what it holds as {base.__name__} a field.",
            ) from None
        members = (name for each in cls.__mro__ for name, found in vars(each).items() if ismemberdescriptor(found))
        slots = _known_slots[cls] = tuple(members)
    return slots


_known_slots: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()


def _findable(cls: type) -> str:
    """The name of a class.

    Raises:
        NotJson: A reader could not find the class by that name.
    """
    name = qualified_name(cls)
    if cls not in _found:
        if not is_found_by_name(cls, BaseModel if issubclass(cls, BaseModel) else None):
            raise NotJson(
                f"holds a {name}, and other processes find no class by that name",
                "Define it at the top level of a module.",
            )
        _found[cls] = True
    return name


_found: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def _written_by_field(model: BaseModel, name: str) -> Written | None:
    """A field as pydantic writes it, if pydantic reads an equal value back; else None."""
    cls = type(model)
    value = model.__dict__[name]
    try:
        written = _dumped(model, name)
        json.dumps(written, allow_nan=False)
        again = read_by_field(cls, name, written)
        if _same(value, again, lambda: _dumped(construct(cls, model.__dict__ | {name: again}), name) == written):
            return written, BY_FIELD
    except Exception:  # pydantic, or the user's serializers and validators
        return None
    return None


def _dumped(model: BaseModel, name: str) -> Any:
    dumped = model.__pydantic_serializer__.to_python(
        model, mode="json", by_alias=False, round_trip=True, include={name}, warnings="error"
    )
    return dumped[name]


#: What Python does not compare when it compares values of these classes.
_NOT_COMPARED: dict[type, tuple[str, ...]] = {
    deque: ("maxlen",),
    defaultdict: ("default_factory",),
    datetime: ("fold",),
    time: ("fold",),
}


def _same(value: Any, again: Any, is_written_equal: Callable[[], bool]) -> bool:
    """Whether a value came back: equal, or written the same if its class does not define equality."""
    if type(value) is not type(again):
        return False
    if any(getattr(value, name, None) != getattr(again, name, None) for name in _NOT_COMPARED.get(type(value), ())):
        return False
    if isinstance(value, list | tuple) and len(value) == len(again):
        return all(_same(one, other, is_written_equal) for one, other in zip(value, again, strict=True))
    if isinstance(value, dict) and list(value) == list(again):
        return all(_same(value[key], again[key], is_written_equal) for key in value)
    try:
        says_nothing = vars(object)["__eq__"] is getattr(type(value), "__eq__", None)
        return bool(value == again) or (says_nothing and is_written_equal())
    except Exception:  # an array compares item by item
        return is_written_equal()
