"""Encodes events as envelopes and decodes them: between user classes and the orchestrator, which knows only names.

What is decoded equals what was encoded, in type and value. Anything that could not be restored is refused here; the
error names the event, the place and the type. Names in envelopes are never imported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from ...orchestration.model.envelope import EXACT_BYTES, Envelope
from ...orchestration.model.errors import (
    PayloadTooLarge,
    UnknownEvent,
    UnserializableValue,
    WorkflowRuntimeError,
    WorkflowValidationError,
)
from ...orchestration.model.tagged_json import TAG_BYTES, NotJson
from ..values.json_values import dump_json, field_problems
from . import run_events as run_events  # they are built in, too
from .event import BUILT_IN_EVENTS, Event, event_from_json, event_name, event_to_json, loaded_event, restore_tagged
from .exceptions import decode_exception, encode_exception

__all__ = [
    "EventMismatch",
    "EventRegistry",
    "PayloadLimits",
    "decode_event",
    "decode_exception",
    "encode_event",
    "encode_exception",
    "event_name",
    "unreadable",
]

_log = logging.getLogger(__name__)


class EventMismatch(WorkflowRuntimeError):
    """A stored event no longer fits its class."""


class PayloadLimits(Protocol):
    """How large an event's JSON may be, in bytes; the settings have these fields."""

    @property
    def payload_warn_bytes(self) -> int:
        """Above this size a warning is logged, once per event class and process."""

    @property
    def payload_max_bytes(self) -> int:
        """Above this size the event is refused."""


@dataclass(frozen=True)
class EventRegistry:
    """Event classes by wire name: those a workflow mentions, and the built-in ones."""

    classes: Mapping[str, type[Event]]

    @classmethod
    def of(cls, classes: Iterable[type[Event]] = ()) -> EventRegistry:
        """A registry of these classes and the built-in ones.

        Raises:
            WorkflowValidationError: Two different classes have the same wire name.
        """
        known = dict(BUILT_IN_EVENTS)
        for event_class in classes:
            name = event_name(event_class)
            if known.setdefault(name, event_class) is not event_class:
                raise WorkflowValidationError(
                    f"Two different event classes are both called {name!r}: {known[name]!r} and {event_class!r}. "
                    f"Rename one of them, or use the same class everywhere (a module that was loaded twice, or a "
                    f"notebook cell that ran again, leaves two)."
                )
        return cls(MappingProxyType(known))

    def knows(self, name: str) -> bool:
        """Whether `find` finds a class of this wire name."""
        return name in self.classes or loaded_event(name) is not None

    def find(self, name: str) -> type[Event]:
        """The class of this wire name: registered here, else loaded in this process.

        Raises:
            UnknownEvent: There is none. Nothing is imported to find it.
        """
        found = self.classes.get(name) or loaded_event(name)
        if found is None:
            own = sorted(known for known in self.classes if known not in BUILT_IN_EVENTS)
            raise UnknownEvent(
                f"No event class {name!r} is loaded in this process. Known here: "
                f"{', '.join([*own, 'the built-in events'])}. Import the module that defines it; if the class was "
                f"renamed, keep a class of the old name until the runs that use it have ended."
            )
        return found


class _Header:
    """The part of an envelope that all events of one class share."""

    __slots__ = ("name", "parents", "warned")

    def __init__(self, cls: type[Event]) -> None:
        self.name = event_name(cls)
        above = (parent for parent in cls.__mro__[1:] if issubclass(parent, Event) and parent is not Event)
        self.parents = tuple(event_name(parent) for parent in above)
        self.warned = False


_headers: WeakKeyDictionary[type[Event], _Header] = WeakKeyDictionary()


def encode_event(event: Event, limits: PayloadLimits) -> Envelope:
    """The event as data. Private attributes and computed fields are left out.

    Args:
        event: Any event.
        limits: Sizes at which to warn and to refuse.

    Raises:
        WorkflowRuntimeError: It is not an event.
        UnserializableValue: Something in it could not be restored; the text names the event, the place and the type.
        PayloadTooLarge: Its JSON is larger than `limits.payload_max_bytes`.
    """
    cls = type(event)
    header = _headers.get(cls)
    if header is None:
        if not issubclass(cls, Event):
            raise WorkflowRuntimeError(
                f"Expected an Event, got a {cls.__qualname__}. Send the value as a field of an event: Event(value=…)."
            )
        header = _headers[cls] = _Header(cls)
    try:
        payload = dump_json(event_to_json(event))
    except NotJson as flaw:
        raise UnserializableValue(f"{header.name} cannot be sent: {flaw}") from flaw
    if len(payload) > limits.payload_warn_bytes:
        _check_size(header, len(payload), limits)
    return Envelope(header.name, header.parents, payload)


def _check_size(header: _Header, size: int, limits: PayloadLimits) -> None:
    if size > limits.payload_max_bytes:
        raise PayloadTooLarge(
            f"{header.name} cannot be sent: it has {size:,} bytes, at most {limits.payload_max_bytes:,} are allowed "
            f"(payload_max_bytes). Keep the data in a file, a bucket or a database, and send its location."
        )
    if not header.warned:
        header.warned = True
        _log.warning(
            "%s has %s bytes, more than %s (payload_warn_bytes). Every step and reader gets all of it; rather keep "
            "the data elsewhere and send its location. Logged once per event class.",
            header.name,
            f"{size:,}",
            f"{limits.payload_warn_bytes:,}",
            extra={"action": "large_event"},
        )


def decode_event(envelope: Envelope, registry: EventRegistry) -> Event:
    """The inverse of `encode_event`.

    Raises:
        UnknownEvent: No class of this name is known or loaded here.
        EventMismatch: The payload does not fit the class (any more); the text names the event and each field.
    """
    cls = registry.find(envelope.type)
    try:
        if EXACT_BYTES in envelope.payload:
            return event_from_json(cls, json.loads(envelope.payload))
        event = _validate(cls, envelope.payload)
        if TAG_BYTES in envelope.payload:
            restore_tagged(event, names=json.loads(envelope.payload).get("_data") or ())
    except Exception as error:  # a user's validators and constructors may raise anything
        raise EventMismatch(
            f"A stored {envelope.type} does not fit its class: {field_problems(error)}. If the class has changed "
            f"since, give new fields a default and keep accepting the old ones until the runs that use them have ended."
        ) from error
    return event


def unreadable(envelope: Envelope, error: UnknownEvent | EventMismatch) -> run_events.UnreadableEvent:
    """The event that readers receive in place of one that cannot be decoded."""
    return run_events.UnreadableEvent(
        event_type=envelope.type.rpartition(".")[2],
        qualified_name=envelope.type,
        reason=str(error),
        payload=envelope.payload.decode(errors="backslashreplace"),
    )


def _validate(cls: type[Event], payload: bytes) -> Event:
    # From text, not from a parsed dict: only then do strict models accept what JSON has no type for, such as dates.
    try:
        return cls.model_validate_json(payload, by_alias=True, by_name=True)
    except ValidationError as error:
        if error.errors(include_context=False)[0]["type"] != "json_invalid":
            raise
    # A StepFailedEvent wraps the event the step failed on, and may be nested deeper than pydantic's own parser allows.
    return cls.model_validate(json.loads(payload), strict=False, by_alias=True, by_name=True)
