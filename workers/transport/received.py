"""A message that was taken from the broker, checked before it is used."""

# mypy: disable-error-code="no-untyped-call"
# kombu is a typed package whose transports carry no annotations.

from __future__ import annotations

from typing import Any

from kombu.exceptions import DecodeError
from kombu.transport import virtual

from .faults import Undecodable, body_fault, envelope_fault, may_be_nested, nesting_fault
from .inflating import inflated


class ReceivedMessage(dict[str, Any]):
    """A decoded message with the queue it came from and, until it is delivered, its bytes."""

    queue: str = ""
    raw: bytes | None = None


class Message(virtual.Message):
    """A message that is checked before it is used."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        """Check the envelope, undo the body's encoding and decompress it within bounds.

        Raises:
            Undecodable: It is not a message; the text says what was expected and what was found.
        """
        fault = _nesting_fault(payload) or envelope_fault(payload, channel.codecs)
        if fault is not None:
            raise Undecodable(fault)
        headers = payload.get("headers") or {}
        compression = headers.get("compression")
        try:
            if compression:  # kombu's own decompression has no bounds
                plain = {name: value for name, value in headers.items() if name != "compression"}
                super().__init__({**payload, "headers": plain}, channel=channel, **kwargs)
                self._raw, self.headers = payload, headers
            else:
                super().__init__(payload, channel=channel, **kwargs)
        except MemoryError:  # says nothing about the message
            raise
        except Exception as error:
            raise Undecodable(f"its body does not decode: {error!r:.200}") from error
        if self.errors:
            raise Undecodable(f"its body does not decode: {self.errors[0][1]!r:.200}")
        if compression:
            try:
                self.body = inflated(self.body, compression, channel.most_inflated_bytes)
            except MemoryError:
                raise
            except Exception as error:
                raise Undecodable(f"its body does not decompress: {error!r:.200}") from error
        if "headers" not in payload:
            try:
                fault = body_fault({}, self._checked())
            except MemoryError:
                raise
            except Exception as error:
                raise Undecodable(f"its body does not decode: {error!r:.200}") from error
            if fault is not None:
                raise Undecodable(fault)

    def _checked(self) -> Any:
        found = super()._decode()
        body = self.body if isinstance(self.body, bytes) else str(self.body).encode(errors="replace")
        if may_be_nested(body) and (fault := nesting_fault(found)) is not None:
            raise DecodeError(fault)
        return found

    def _decode(self) -> Any:
        try:
            return self._checked()
        except Exception as error:
            if isinstance(self._raw, ReceivedMessage):
                self.channel.set_aside(self._raw, f"its body does not deserialize: {error!r:.200}")
            raise


def _nesting_fault(payload: Any) -> str | None:
    is_shallow = isinstance(payload, ReceivedMessage) and not (payload.raw and may_be_nested(payload.raw))
    return None if is_shallow else nesting_fault(payload)
