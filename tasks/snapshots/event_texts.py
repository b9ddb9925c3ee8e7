"""Shared by reading and writing of snapshots: events as text, and the digest that detects damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ...orchestration.connection.settings import Settings
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import ContextSerdeError, UmbelError
from ...orchestration.model.tagged_json import tagged_text
from ..events.codec import EventRegistry, decode_event, encode_event
from ..events.event import CollectionReleaseEvent, Event, event_name
from ..events.serializers import BaseSerializer, JsonSerializer

#: Version of the content of the key `umbel`.
FORMAT = 1

_LIMITS = Settings()

#: The input of a fan-in, whose events are in its release payload.
RELEASE = encode_event(CollectionReleaseEvent(events=[], stream_id=""), _LIMITS)


class EventTexts:
    """Writes events as a serializer's text and reads them."""

    def __init__(self, serializer: BaseSerializer, registry: EventRegistry, only: frozenset[str] | None = None) -> None:
        """Args:
        serializer: Writes and reads the events.
        registry: The classes of stored events.
        only: Wire names of the classes that may be read, in addition to umbel's plain ones; None for all.
        """
        self.serializer, self.registry, self._only = serializer, registry, only

    def write(self, event: Envelope) -> str:
        """The text of an event.

        Raises:
            ValueError: The serializer cannot write it.
        """
        if type(self.serializer) is JsonSerializer:  # the same text, without building the event
            return tagged_text(event.type, event.payload.decode())
        return self.serializer.serialize(decode_event(event, self.registry))

    def read(self, text: str, where: str) -> Envelope:
        """Read an event from its text.

        Raises:
            ContextSerdeError: It is not an event, or its class is not available here; the text names `where`.
        """
        try:
            event = self.serializer.deserialize(text)
            if not isinstance(event, Event):
                raise ContextSerdeError(f"expected an event, found {type(event).__name__}")
            self.check(event_name(type(event)))
            return encode_event(event, _LIMITS)
        except (UmbelError, ValueError, TypeError) as error:
            raise ContextSerdeError(f"The snapshot cannot be read: an event of {where} is unusable: {error}") from error

    def check(self, name: str) -> None:
        """Refuse an event class that must not come from outside.

        Raises:
            ContextSerdeError: It is not one of the classes that may be read.
        """
        if self._only is not None and name not in self._only:
            raise ContextSerdeError(
                f"{name} cannot come from a client: the workflow does not declare it, or only umbel creates it. "
                f"Declared: {', '.join(sorted(self._only))}. Others need add_workflow(…, additional_events=[…])."
            )


def with_digest(body: dict[str, Any]) -> dict[str, Any]:
    """The snapshot with a digest of its content."""
    return body | {"umbel": body["umbel"] | {"digest": digest(body)}}


def digest(body: Mapping[str, Any]) -> str:
    """A digest of a snapshot's content, without the digest itself."""
    about = {key: value for key, value in body["umbel"].items() if key != "digest"}
    text = json.dumps(dict(body) | {"umbel": about}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
