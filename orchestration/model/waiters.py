"""Steps that wait for an event, events that wait for a step, and how they are matched.

Waiters for the same event class and the same fields are of one *kind*. For a kind, an event has at most one *digest*:
that of its values of these fields. The waiters of the kind that the event answers are exactly those with the same
digest, so Redis can look them up. `Waiter.matches` still checks each waiter that was found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from .envelope import Envelope


@dataclass(frozen=True, slots=True)
class Kind:
    """What waiters of one kind have in common.

    Attributes:
        event_type: The event class they wait for.
        subclasses: Whether events of derived classes are accepted too.
        names: The fields with a required value, sorted.
    """

    event_type: str
    subclasses: bool
    names: tuple[str, ...]

    def to_text(self) -> str:
        """Text for Redis, without quotes, bars and spaces."""
        return quote(json.dumps([self.event_type, self.subclasses, *self.names], separators=(",", ":")))

    @staticmethod
    def from_text(text: str) -> Kind:
        """The inverse of `to_text`."""
        event_type, subclasses, *names = json.loads(unquote(text))
        return Kind(event_type, subclasses, tuple(names))

    def digest(self, values: Mapping[str, Any]) -> str:
        """The digest of required values; equal for values that are equal in Python.

        Raises:
            RecursionError: A value is nested too deeply for this.
        """
        wanted = [_canonical(values[name]) for name in self.names]
        text = f"{self.to_text()} {json.dumps(wanted, sort_keys=True, separators=(',', ':'))}"
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def digests(kinds: Iterable[Kind], events: Sequence[Envelope]) -> list[str]:
    """The digests of all waiters of these kinds that any of the events answers, without duplicates.

    Raises:
        RecursionError: As in `Kind.digest`.
    """
    found: dict[str, None] = {}
    known = list(kinds)
    for event in events:
        fitting = [
            kind for kind in known if event.type == kind.event_type or (kind.subclasses and event.is_a(kind.event_type))
        ]
        value = event.value() if any(kind.names for kind in fitting) else {}
        values = (value.get("_data") or {}) | value
        for kind in fitting:
            if all(name in values for name in kind.names):
                found[kind.digest(values)] = None
    return list(found)


def _canonical(value: Any) -> Any:
    """A form that is the same for all values that are equal in Python, such as True, 1 and 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, dict):
        return {name: _canonical(each) for name, each in value.items()}
    return value


#: Maximum bytes of a payload whose parsed value is cached.
_SMALL = 1024


@lru_cache(2048)
def _small_value(payload: bytes) -> dict[str, Any]:
    """The parsed payload, cached because many waiters check the same inbox events. Do not modify it."""
    value: dict[str, Any] = json.loads(payload)
    return value


@dataclass(frozen=True, slots=True)
class Waiter:
    """A suspended step's condition: an event class, and fields that must have given values."""

    work_id: str
    waiter_id: str
    step: str
    event_type: str
    requirements: dict[str, Any]
    subclasses: bool = False

    def matches(self, event: Envelope) -> bool:
        """Whether `event` answers this waiter."""
        if event.type != self.event_type and not (self.subclasses and event.is_a(self.event_type)):
            return False
        if not self.requirements:
            return True
        value = _small_value(event.payload) if len(event.payload) <= _SMALL else event.value()
        dynamic = value.get("_data") or {}
        missing = object()
        return all(value.get(k, dynamic.get(k, missing)) == wanted for k, wanted in self.requirements.items())

    def to_bytes(self) -> bytes:
        """What is stored under `work id|waiter id`. Scripts read its digest and kind, so these come first."""
        body = {"s": self.step, "t": self.event_type, "r": self.requirements, "sub": self.subclasses}
        kind = Kind(self.event_type, self.subclasses, tuple(sorted(self.requirements)))
        with suppress(RecursionError):  # such a waiter is found without the index
            body = {"i": kind.digest(self.requirements), "k": kind.to_text()} | body
        return json.dumps(body, separators=(",", ":")).encode()

    @staticmethod
    def from_bytes(name: str, data: bytes) -> Waiter:
        """The inverse of `to_bytes`, from the field name and content in the waiters hash."""
        work_id, _, waiter_id = name.partition("|")
        body = json.loads(data)
        return Waiter(work_id, waiter_id, body["s"], body["t"], body["r"], body["sub"])


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """An event that arrived before any step accepted it."""

    event_id: str
    event: Envelope


@dataclass(frozen=True, slots=True)
class Seen:
    """Result of a lookup in the index of waiters. An equal result later means that no relevant waiter was added.

    Attributes:
        kinds: Number of kinds of waiters.
        counts: Digest -> number of waiters.
    """

    kinds: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The part of a run that other processes may change while a step decides: waiters and inbox.

    A script checks whether a decision still holds; if not, the outcome is decided again with fresh surroundings.

    Attributes:
        version: Changes whenever a waiter is added. Scripts detect by themselves that one was removed.
        waiters: The waiters that may affect the decision.
        inbox: The events in the inbox.
        inbox_version: Changes whenever an event is added to the inbox.
        seen: The result of the lookup in the index of waiters, if there was one.
    """

    version: int = 0
    waiters: tuple[Waiter, ...] = ()
    inbox: tuple[InboxEvent, ...] = ()
    inbox_version: int = 0
    seen: Seen | None = None

    def after(self, event: Envelope) -> Surroundings:
        """What is left after `event` has answered its waiters: each is answered once, by the first match."""
        left = tuple(waiter for waiter in self.waiters if not waiter.matches(event))
        return self if len(left) == len(self.waiters) else replace(self, waiters=left)
