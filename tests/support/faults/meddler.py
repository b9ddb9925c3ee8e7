"""Tampers with the messages in a broker queue: duplicates, reverses, delays, damages and drops them.

A Celery queue on Redis is a list: `LPUSH` adds a message, and the right end is delivered next. umbel's transport and
kombu's own use the same lists and the same messages.
"""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.connection.settings import Settings
from umbel.tasks.messages.dispatcher import transport_options


class Meddler:
    """One queue of a deployment's Redis broker."""

    def __init__(self, settings: Settings, chosen: random.Random, *, queue: str | None = None) -> None:
        """Args:
        settings: The settings of the deployment.
        chosen: Chooses what happens to which message.
        queue: Default: the queue of steps that name none.
        """
        self.client = connect(settings.broker_url or settings.redis_url or "")
        self.key = f"{transport_options(settings)['global_keyprefix']}{queue or settings.queue}"
        self.chosen = chosen
        self.doubled = self.dropped = self.delayed = self.reversed = 0
        self._held: list[bytes] = []

    def close(self) -> None:
        """Put back the held messages, and disconnect."""
        self.release()
        self.client.close()

    def waiting(self) -> list[bytes]:
        """Return the messages, the next to be delivered first."""
        found: list[bytes] = self.client.lrange(self.key, 0, -1)
        return found[::-1]

    def take(self) -> list[bytes]:
        """Remove all messages from the queue and return them."""
        found, _ = self.client.pipeline(transaction=True).lrange(self.key, 0, -1).delete(self.key).execute()
        return list(found[::-1])

    def put(self, *messages: bytes | str) -> None:
        """Add messages, the first to be delivered first."""
        if messages:
            self.client.lpush(self.key, *messages)

    # -- tampering -------------------------------------------------------------------------------------------------

    def double(self, times: int = 2) -> int:
        """Put every message into the queue `times` times."""
        found = self.waiting()
        for _ in range(times - 1):
            self.put(*found)
        self.doubled += len(found) * (times - 1)
        return len(found)

    def reverse(self) -> int:
        """Reverse the delivery order."""
        found = self.take()
        self.put(*reversed(found))
        self.reversed += len(found)
        return len(found)

    def shuffle(self) -> int:
        """Shuffle the delivery order."""
        found = self.take()
        self.chosen.shuffle(found)
        self.put(*found)
        self.reversed += len(found)
        return len(found)

    def drop(self, chance: float = 1.0) -> int:
        """Drop each message with this probability."""
        found = self.take()
        kept = [message for message in found if self.chosen.random() >= chance]
        self.put(*kept)
        self.dropped += len(found) - len(kept)
        return len(found) - len(kept)

    def hold(self) -> list[bytes]:
        """Remove all messages until `release`."""
        found = self.take()
        self._held += found
        self.delayed += len(found)
        return found

    def release(self) -> None:
        """Put back the held messages."""
        held, self._held = self._held, []
        self.put(*held)

    def damage(self) -> int:
        """Damage each message: truncate it, replace its body, remove a field, or replace it by noise."""
        found = self.take()
        self.put(*(self.chosen.choice(_DAMAGES)(message, self.chosen) for message in found))
        return len(found)

    @contextmanager
    def at_work(self, *, every_seconds: float = 0.05) -> Iterator[None]:
        """Within the block, tamper with the queue repeatedly at random; at its end nothing is held."""
        stop = threading.Event()

        def meddle() -> None:
            while not stop.wait(every_seconds):
                self.chosen.choice([self.double, self.reverse, self.shuffle, lambda: self.drop(0.2), self.hold])()
                if self.chosen.random() < 0.5:
                    self.release()

        thread = threading.Thread(target=meddle, name="meddler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.release()


# -- messages ----------------------------------------------------------------------------------------------------------


def opened(message: bytes) -> tuple[dict[str, Any], list[Any]]:
    """Return a message's envelope and its body: arguments, keyword arguments, the rest."""
    envelope = json.loads(message)
    return envelope, json.loads(base64.b64decode(envelope["body"]))


def closed(envelope: dict[str, Any], body: Any) -> bytes:
    """Return the message with this envelope and body."""
    return json.dumps(envelope | {"body": base64.b64encode(json.dumps(body).encode()).decode()}).encode()


def addressed(message: bytes, *arguments: Any) -> bytes:
    """Return the same message with other arguments."""
    envelope, (_, keywords, rest) = opened(message)
    return closed(envelope, [list(arguments), keywords, rest])


def _cut(message: bytes, chosen: random.Random) -> bytes:
    return message[: chosen.randrange(len(message))]


def _flipped(message: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(len(message))
    return message[:at] + bytes([message[at] ^ (1 << chosen.randrange(8))]) + message[at + 1 :]


def _poorer(message: bytes, chosen: random.Random) -> bytes:
    envelope = json.loads(message)
    del envelope[chosen.choice(sorted(envelope))]
    return json.dumps(envelope).encode()


def _misaddressed(message: bytes, chosen: random.Random) -> bytes:
    return addressed(message, *(chosen.choice([None, 7, "no-such-run", [], {}, "x" * 300]) for _ in range(3)))


_DAMAGES = [_cut, _flipped, _poorer, _misaddressed]
