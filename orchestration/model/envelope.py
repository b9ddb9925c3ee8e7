"""An event as data: what the orchestrator routes, stores and publishes without knowing its class."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

#: Wire names of the built-in events that routing itself depends on.
EVENT = "umbel.Event"
START = "umbel.StartEvent"
STOP = "umbel.StopEvent"
#: What a sleeping step waits for; nobody is asked to answer it.
SLEEP_ENDED = "umbel.SleepEndedEvent"
INPUT_REQUIRED = "umbel.InputRequiredEvent"
STEP_FAILED = "umbel.StepFailedEvent"
STEP_STATE_CHANGED = "umbel.StepStateChanged"
UNHANDLED = "umbel.UnhandledEvent"
UNREADABLE = "umbel.UnreadableEvent"
IDLE = "umbel.WorkflowIdleEvent"
TIMED_OUT = "umbel.WorkflowTimedOutEvent"
CANCELLED = "umbel.WorkflowCancelledEvent"
FAILED = "umbel.WorkflowFailedEvent"
JOIN_EXPIRED = "umbel.JoinExpired"
INTERNAL = "umbel.InternalDispatchEvent"

#: Payload key for the exact types of declared fields where JSON does not determine them. Irrelevant for display.
EXACT = "__exact"
EXACT_BYTES = f'"{EXACT}":'.encode()


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event: its wire name, the names of its parent events, and its payload as opaque JSON bytes.

    `parents` are the Event classes between this one and `Event`, nearest first, both excluded. Redis never parses the
    payload; Python parses it only where a decision depends on it (a waiter's requirements). With tracing, `trace` is
    the span in which the event was made (a W3C `traceparent`). It does not belong to the event's identity or equality.
    """

    type: str
    parents: tuple[str, ...]
    payload: bytes
    trace: str = field(default="", compare=False)

    def is_a(self, name: str) -> bool:
        """Whether the event's class is `name` or derives from it."""
        return self.type == name or name in self.parents

    def value(self) -> dict[str, Any]:
        """The parsed payload, for people and for programs without the event's class."""
        parsed: dict[str, Any] = json.loads(self.payload)
        parsed.pop(EXACT, None)
        return parsed

    def field(self, name: str) -> Any:
        """One field of the payload, declared or dynamic; None if there is none."""
        value = self.value()
        return value.get(name, (value.get("_data") or {}).get(name))

    def marked(self, trace: str) -> Envelope:
        """The same event with this trace, if there is one."""
        return replace(self, trace=trace) if trace else self

    def to_bytes(self) -> bytes:
        """One JSON object `{"type":…,"parents":[…],"value":…}`; the payload is inserted unchanged.

        A trace is put before the value, where readers of older releases ignore it.
        """
        if self.trace:
            return _head(self.type, self.parents)[:-8] + b'"trace":"%b","value":%b}' % (
                self.trace.encode(),
                self.payload,
            )
        return self.content()

    def content(self) -> bytes:
        """The bytes without the trace: equal for equal events."""
        return _head(self.type, self.parents) + self.payload + b"}"

    @staticmethod
    def from_bytes(data: bytes) -> Envelope:
        """The inverse of `to_bytes`.

        Only the header is parsed: it always precedes `,"value":`, which cannot occur inside a class name.
        """
        cut = data.index(b',"value":')
        if data[cut - 1] == _QUOTE:
            head, _, trace = data[:cut].rpartition(b',"trace":"')
            return Envelope(*_read_head(head), data[cut + 9 : -1], trace[:-1].decode())
        return Envelope(*_read_head(data[:cut]), data[cut + 9 : -1])


_QUOTE = ord('"')


# A deployment has few event classes and many events.
@lru_cache(4096)
def _head(name: str, parents: tuple[str, ...]) -> bytes:
    head = json.dumps({"type": name, "parents": parents}, separators=(",", ":"))
    return head[:-1].encode() + b',"value":'


@lru_cache(4096)
def _read_head(head: bytes) -> tuple[str, tuple[str, ...]]:
    found = json.loads(head + b"}")
    return found["type"], tuple(found["parents"])


def internal(name: str, /, **fields: Any) -> Envelope:
    """An event that umbel itself publishes (step states, idle runs, …)."""
    return Envelope(name, (INTERNAL,), json.dumps(fields, separators=(",", ":")).encode())


def ending(name: str, /, **fields: Any) -> Envelope:
    """A built-in event that ends a run (timed out, cancelled, failed)."""
    return Envelope(name, (STOP,), json.dumps(fields, separators=(",", ":")).encode())
