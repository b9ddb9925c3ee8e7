"""Parsing requests: JSON and the events in it. Invalid input is answered with 400 and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ...orchestration.model.tagged_json import TAG, NotJson
from ...tasks.events.event import Event, event_name
from ...tasks.values.class_names import only_classes
from ...tasks.values.json_values import dump_json, field_problems
from .protocol import qualified, short_name

T = TypeVar("T")

#: Maximum keys of all objects in one body, and maximum lists and objects. Making events from them takes some
#: microseconds per key, and one or two per list.
MAX_KEYS, MAX_CONTAINERS = 200_000, 1_000_000
#: Larger bodies are read in a thread, because they would delay other requests.
LARGE_BYTES = 1 << 16

#: Keys of an envelope. An object with other keys is the plain form of a start event.
_ENVELOPE = {"value", "data", "type", "qualified_name", "types", TAG}
#: Module of the built-in events in LlamaIndex's clients.
_THEIRS = "workflows.events."


class EventProblem(ValueError):
    """A client's data is not a valid event."""


def read_object(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        HTTPException: 400, it is not one.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise HTTPException(400, f"{what}: it is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise HTTPException(400, f"{what}: expected an object, got {_kind(value)}")
    # Counting characters is fast and gives upper bounds for the numbers of keys, lists and objects.
    keys, containers = body.count(b":"), body.count(b"[") + body.count(b"{")
    if keys > MAX_KEYS or containers > MAX_CONTAINERS:
        _refuse_too_many(value, what)
    return value


def _refuse_too_many(value: Any, what: str) -> None:
    keys, containers, level = 0, 0, [value]
    while level:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                keys += len(each)
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
            else:
                continue
            containers += 1
            if keys > MAX_KEYS:
                raise HTTPException(
                    400, f"{what}: it has more than {MAX_KEYS:,} keys. Send large tables as lists, or a location."
                )
            if containers > MAX_CONTAINERS:
                raise HTTPException(
                    400, f"{what}: it has more than {MAX_CONTAINERS:,} lists and objects. Send a location instead."
                )
        level = inner


async def beside(body: bytes, read: Callable[..., T], *args: Any) -> T:
    """Call `read`; if the body is large, in a thread, so that other requests are not delayed."""
    return await run_in_threadpool(read, *args) if len(body) > LARGE_BYTES else read(*args)


def read_text(body: Mapping[str, Any], name: str) -> str | None:
    """An optional text field; an empty text counts as absent.

    Raises:
        HTTPException: 400, it is not a text.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise HTTPException(400, f"{name!r} must be a string, got {_kind(value)}")
    return value or None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def registry_of(classes: list[type[Event]]) -> dict[str, type[Event]]:
    """Event classes by the name that clients use."""
    return {cls.__name__: cls for cls in classes}


def parse_event(data: Any, registry: Mapping[str, type[Event]], *, start: type[Event] | None = None) -> Event:
    """An event from an envelope, or from an envelope as JSON text.

    An envelope has a `value` and the class, as `type` or as `qualified_name`, which is looked up and never imported.

    Args:
        data: Any JSON value.
        registry: The classes that may be sent, by name.
        start: A start event is expected: an object that is not an envelope has this class's fields.

    Raises:
        EventProblem: It is not a valid event; the message says why.
    """
    if isinstance(data, str):
        try:
            data = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            data = None
    if not isinstance(data, dict):
        raise EventProblem("Failed to deserialize event. Must be a json object, or stringified json object")
    if start is not None and _is_plain(data, registry, start):
        return make_event(start, data)
    value = data["value"] if "value" in data else data.get("data")
    return make_event(_class_of(data, registry), value)


def _is_plain(data: Mapping[str, Any], registry: Mapping[str, type[Event]], start: type[Event]) -> bool:
    if "value" not in data:
        return not {"type", "qualified_name"} <= data.keys()
    if not data.keys() <= _ENVELOPE:
        return True
    # The start event may itself have a field called `value`.
    name = _as_text(data.get("type"))
    names_a_class = name in registry or bool((name and "type" not in start.model_fields) or data.get("qualified_name"))
    return "value" in start.model_fields and not (names_a_class and isinstance(data["value"], dict))


def _class_of(data: Mapping[str, Any], registry: Mapping[str, type[Event]]) -> type[Event]:
    problems = []
    if name := _as_text(data.get("type")):
        if name in registry:
            return registry[name]
        problems.append(f"Invalid event type: {_short(name)}. Expected one of {', '.join(registry)}")
    if name := _as_text(data.get("qualified_name")):
        for cls in registry.values():
            known = event_name(cls)
            # If the client is the main program, the classes it defines are in its `__main__`.
            names = (known, qualified(known), _THEIRS + short_name(known), f"__main__.{cls.__qualname__}")
            if name in names and (not name.startswith(_THEIRS) or known.startswith("umbel.")):
                return cls
        problems.append(
            f"Event type {_short(name)} is not declared by this workflow. "
            "Register it with add_workflow(..., additional_events=[...])."
        )
    raise EventProblem(
        " ".join(problems) or f"Invalid client data. Must have a type or a qualified name, got {_short(data)}"
    )


def make_event(cls: type[Event], value: Any) -> Event:
    """An event of this class. Class names in its value are treated as data: no objects are made from them.

    Raises:
        EventProblem: The fields are invalid.
    """
    try:
        # From JSON text, so that strict models also accept types that JSON lacks, such as dates.
        with only_classes(()):
            return cls.model_validate_json(dump_json(value))
    except NotJson as flaw:
        raise EventProblem(f"Failed to deserialize event: {cls.__name__}: {flaw}") from flaw
    except Exception as error:  # a user's validators may raise anything
        raise EventProblem(f"Failed to deserialize event: {cls.__name__}: {field_problems(error)}") from error


def _short(value: Any) -> str:
    shown = str(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""
