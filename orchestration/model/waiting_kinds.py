"""How the waiters of an event are found among very many: by what kind of event they wait for, and with which values.

Waiters that name the same event class and the same fields are of one *kind*. Given a kind, an event has at most one
*digest*: that of the values it has in these fields. Exactly those waiters of the kind that the event answers have the
same digest, so Redis can look them up. Pure: what is found is still compared with `Waiter.matches`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from .envelope import Envelope


@dataclass(frozen=True, slots=True)
class Kind:
    """What waiters have in common.

    Attributes:
        event_type: The event class they wait for.
        subclasses: Whether events of derived classes are accepted too.
        names: The fields with a required value, sorted.
    """

    event_type: str
    subclasses: bool
    names: tuple[str, ...]

    def to_text(self) -> str:
        """For Redis; free of quotes, bars and spaces."""
        return quote(json.dumps([self.event_type, self.subclasses, *self.names], separators=(",", ":")))

    @staticmethod
    def from_text(text: str) -> Kind:
        """The inverse."""
        event_type, subclasses, *names = json.loads(unquote(text))
        return Kind(event_type, subclasses, tuple(names))

    def digest(self, values: Mapping[str, Any]) -> str:
        """The digest of required values: equal for values that Python calls equal.

        Raises:
            RecursionError: A value is nested too deeply to be compared this way.
        """
        wanted = [_canonical(values[name]) for name in self.names]
        text = f"{self.to_text()} {json.dumps(wanted, sort_keys=True, separators=(',', ':'))}"
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def digests(kinds: Iterable[Kind], events: Sequence[Envelope]) -> list[str]:
    """The digests of all waiters of these kinds that any of the events answers, each once.

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
    """The same for all values that are equal in Python: True, 1 and 1.0 are."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, dict):
        return {name: _canonical(each) for name, each in value.items()}
    return value
