"""Values of standard classes, which have no parts, as JSON: dates, numbers, paths, addresses, URLs, classes."""

from __future__ import annotations

import base64
import ipaddress
import pathlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter, networks
from pydantic_core import TzInfo, Url

from ...orchestration.model.tagged_json import NotJson
from .class_names import is_found_by_name, loaded_class, qualified_name
from .plain_fields import is_named

ADVICE = "Declare it as a field of a type that pydantic can write as JSON, or keep it in a Resource and send its key."


class Refused(NotJson):
    """A value that no field may carry, even if it could be written."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A value without parts, as JSON.

    Attributes:
        name: The name of its class.
        value: JSON that people can read.
        more: Further data needed to create it again; None if nothing.
    """

    name: str
    value: Any
    more: Any = None


def atom_of(value: Any) -> Atom | None:
    """The value as JSON; None if its class is not one of these.

    Raises:
        NotJson: The class is one of these, but the value cannot be restored.
    """
    kind = type(value)
    if write := _WRITERS.get(kind):
        return write(value)
    if isinstance(value, str | int | float):
        return _of_subclass(value)
    if isinstance(value, SecretStr | SecretBytes | Secret):
        return _secret(value)
    if isinstance(value, type):
        name = qualified_name(value)
        if not is_found_by_name(value):
            raise NotJson(
                f"holds the class {name}, and other processes find none by that name",
                "Define it at the top level of a module.",
            )
        return Atom("builtins.type", name)
    if kind.__module__ in _TEXT_MODULES and is_found_by_name(kind):
        return _as_text(value, qualified_name(kind))
    return None


def is_text_class(cls: type) -> bool:
    """Whether instances are created from their own text, or from the number that they are."""
    return cls.__module__ in _TEXT_MODULES or issubclass(cls, str | int | float)


#: Modules whose classes are created from their own text.
_TEXT_MODULES = frozenset({networks.__name__, Url.__module__, "pydantic_core._pydantic_core"})


def _as_text(value: Any, name: str) -> Atom:
    text = str(value)
    try:
        same = type(value)(text) == value
    except Exception:  # a class that is created otherwise
        same = False
    if not same:
        raise NotJson(f"holds a {name} that cannot be restored from its text", ADVICE)
    return Atom(name, text)


def _of_subclass(value: str | int | float) -> Atom:
    kind = type(value)
    plain: Any = next(base for base in (str, int, float) if isinstance(value, base))
    shown = plain(value) if plain is not str else str.__str__(value)
    try:
        same = is_found_by_name(kind) and _equal(kind(shown), value)
    except Exception:  # a constructor with another signature
        same = False
    if not same:
        raise NotJson(
            f"holds a {qualified_name(kind)}, which cannot be restored from its value as {plain.__name__}",
            f"Send {plain.__name__}(…) of it.",
        )
    return Atom(qualified_name(kind), shown)


def _equal(one: Any, other: Any) -> bool:
    return (
        type(one) is type(other)
        and (one == other or (one != one and other != other))
        and vars_of(one) == vars_of(other)
    )


def vars_of(value: Any) -> dict[str, Any]:
    """The attributes that an instance has in addition to those of its class."""
    return getattr(value, "__dict__", {})


def _secret(value: Any) -> Atom:
    inner = value.get_secret_value()
    if inner not in ("", b""):
        raise Refused(
            f"holds a {qualified_name(type(value))}: everyone who reads the run could read it",
            "Pass secrets to steps as a Resource.",
        )
    return Atom(qualified_name(type(value)), "")


def _zone(value: datetime | time) -> Any:
    zone = value.tzinfo
    if is_named(zone):
        return [zone.utcoffset(None) // _MICROSECOND, value.fold, zone.tzname(None)]
    if zone is None or isinstance(zone, timezone | TzInfo):
        offset = None if zone is None else zone.utcoffset(None)
        if offset is not None and offset.microseconds:  # Python does not always read them from text
            return [offset // _MICROSECOND, value.fold]
        return [None, value.fold] if value.fold else None
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return [zone.key, value.fold]
    if isinstance(value, datetime):  # a zone of another class is replaced by its offset at that time
        return None
    raise NotJson(f"holds a time in the zone {zone!r}, which has no offset without a date", "Send a datetime.")


def _read_in_zone(read: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    def make(text: Any, more: Any) -> Any:
        found = read(text)
        if more is None:
            return found
        # The wall clock counts: the zone may have another offset here than in the text, which is for human readers.
        zone, fold, *name = more
        if zone is None:
            return found.replace(fold=fold)
        there = timezone(zone * _MICROSECOND, *name) if isinstance(zone, int) else ZoneInfo(zone)
        return found.replace(tzinfo=there, fold=fold)

    return make


_MICROSECOND = timedelta(microseconds=1)


def _of_date_and_time(value: datetime | time) -> Atom:
    more = _zone(value)
    text = value.isoformat()
    if text.endswith("+00:00"):  # as pydantic writes it
        text = f"{text[:-6]}Z"
    return Atom(qualified_name(type(value)), text, more)


def _bytes(value: bytes | bytearray) -> Atom:
    name = qualified_name(type(value))
    try:
        return Atom(name, value.decode(), "utf8")  # as pydantic writes it
    except UnicodeDecodeError:
        return Atom(name, base64.b64encode(value).decode())


def _read_bytes(kind: Callable[[bytes], Any]) -> Callable[[Any, Any], Any]:
    return lambda text, more: kind(text.encode() if more == "utf8" else base64.b64decode(text, validate=True))


def _pattern(value: re.Pattern[Any]) -> Atom:
    if not isinstance(value.pattern, str):
        raise NotJson("holds a pattern of bytes", "Send its text.")
    return Atom("re.Pattern", value.pattern, value.flags)


def _text(kind: type) -> Callable[[Any], Atom]:
    name = qualified_name(kind)
    return lambda value: Atom(name, str(value))


_TEXTS: tuple[type, ...] = (
    Decimal,
    UUID,
    Fraction,
    complex,
    ZoneInfo,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)

_PATHS = {
    kind: f"pathlib.{kind.__name__}"  # in a private module from Python 3.13 on
    for kind in (type(pathlib.Path()), pathlib.PurePosixPath, pathlib.PureWindowsPath)
}


def _span(value: timedelta) -> Atom:
    return Atom("datetime.timedelta", _spans.dump_python(value, mode="json"))


_spans = TypeAdapter(timedelta)

_WRITERS: Mapping[type, Callable[[Any], Atom]] = {
    **{kind: _text(kind) for kind in _TEXTS},
    **{kind: (lambda value, name=name: Atom(name, str(value))) for kind, name in _PATHS.items()},  # type: ignore[misc]
    bytes: _bytes,
    bytearray: _bytes,
    date: lambda value: Atom("datetime.date", value.isoformat()),
    datetime: _of_date_and_time,
    time: _of_date_and_time,
    timedelta: _span,
    range: lambda value: Atom("builtins.range", [value.start, value.stop, value.step]),
    re.Pattern: _pattern,
}

#: By class name: creates a value from the `value` and `more` of an `Atom`.
ATOMS: Mapping[str, Callable[[Any, Any], Any]] = {
    **{qualified_name(kind): (lambda text, _, kind=kind: kind(text)) for kind in _TEXTS},  # type: ignore[misc]
    **{name: (lambda text, _, kind=kind: kind(text)) for kind, name in _PATHS.items()},  # type: ignore[misc]
    # A path of another kind of system is read as a path of this system.
    **{f"pathlib.{name}": (lambda text, _: pathlib.Path(text)) for name in ("PosixPath", "WindowsPath")},
    "builtins.bytes": _read_bytes(bytes),
    "builtins.bytearray": _read_bytes(bytearray),
    "datetime.date": lambda text, _: date.fromisoformat(text),
    "datetime.datetime": _read_in_zone(datetime.fromisoformat),
    "datetime.time": _read_in_zone(time.fromisoformat),
    "datetime.timedelta": lambda text, _: _spans.validate_python(text),
    "builtins.range": lambda parts, _: range(*parts),
    "builtins.type": lambda name, _: _read_type(name),
    "re.Pattern": lambda text, flags: re.compile(text, flags),
    **{qualified_name(kind): (lambda _, __, kind=kind: kind("")) for kind in (SecretStr,)},  # type: ignore[misc]
    qualified_name(SecretBytes): lambda _, __: SecretBytes(b""),
}


def _read_type(name: str) -> type:
    cls = loaded_class(name, object)
    if cls is None:
        raise ValueError(f"the class {name!r} is not loaded in this process")
    return cls
