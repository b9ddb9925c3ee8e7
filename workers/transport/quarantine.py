"""Where malformed broker messages are kept, and how to read them back; `faults` says what is wrong with one.

Such a message must neither end a worker nor delay other messages. It is moved into a bounded list next to its queue,
with the bytes as they arrived, and counted; nothing is dropped silently. `channel` takes messages from the broker.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import redis

from ...orchestration.connection.failpoints import failpoint
from ...orchestration.connection.keys import QUARANTINE_KEY
from ...orchestration.connection.redis_client import connect
from ...orchestration.connection.settings import Settings, redis_behind

#: Messages kept per queue, enough to see what a faulty publisher sends; more are only counted.
KEPT_PER_QUEUE = 1000

#: Bytes kept of one message: the list of a queue never holds more than KEPT_PER_QUEUE times this.
KEPT_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """One quarantined message.

    Attributes:
        reason: What was expected and what was found.
        at: When it was quarantined, in seconds since 1970, by that worker's clock.
        raw: The message as it arrived, cut off after KEPT_BYTES.
        size: Its whole length in bytes.
    """

    reason: str
    at: float
    raw: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The quarantined messages of one queue.

    Attributes:
        count: How many there have been.
        kept: How many of them can still be read.
        latest: The latest one, or None if the list was deleted.
    """

    count: int
    kept: int
    latest: QuarantinedMessage | None


def quarantined(client: redis.Redis, keyprefix: str = "") -> dict[str, Quarantine]:
    """The quarantine of each queue that has one.

    Reads only, in two round trips. The figures of different queues may be of different instants.

    Args:
        client: A client of the broker's Redis database.
        keyprefix: The broker's `global_keyprefix`, if it has one.
    """
    key = keyprefix + QUARANTINE_KEY
    counts: Any = client.hgetall(key)
    pipeline = client.pipeline(transaction=False)
    for queue in counts:
        pipeline.llen(f"{key}:{_text(queue)}")
        pipeline.lindex(f"{key}:{_text(queue)}", 0)
    answers = pipeline.execute()
    return {
        _text(queue): Quarantine(int(count), answers[2 * i], answers[2 * i + 1] and _read(answers[2 * i + 1]))
        for i, (queue, count) in enumerate(counts.items())
    }


def quarantined_of(settings: Settings) -> dict[str, Quarantine]:
    """`quarantined` for a deployment's broker; empty if it is not Redis, because other brokers have no quarantine.

    Raises:
        redis.RedisError: The broker does not answer.
    """
    server = redis_behind(settings.broker)
    if server is None:
        return {}
    with connect(server) as client:
        return quarantined(client, settings.broker_prefix)


def set_aside(client: redis.Redis, keyprefix: str, queue: str, raw: bytes, reason: str) -> None:
    """Keep a malformed message that was taken from `queue`.

    The newest comes first; messages beyond KEPT_PER_QUEUE are dropped but stay counted. The three commands are not
    atomic: a crash between them leaves one entry too many, which the next call trims, or one that is not counted.
    Repeating a call keeps the message twice.

    Raises:
        redis.RedisError: Redis did not store it. The message then exists only in the caller.
    """
    key = keyprefix + QUARANTINE_KEY
    # Latin-1 maps every byte to one character and back, so the list is readable and can be restored exactly.
    kept = raw[:KEPT_BYTES].decode("latin-1")
    entry = json.dumps({"reason": reason, "at": time.time(), "raw": kept, "size": len(raw)})
    pipeline = client.pipeline(transaction=False)
    pipeline.lpush(f"{key}:{queue}", entry)
    pipeline.ltrim(f"{key}:{queue}", 0, KEPT_PER_QUEUE - 1)
    pipeline.hincrby(key, queue, 1)
    failpoint("quarantine", "before")
    pipeline.execute()
    failpoint("quarantine", "after")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(entry: str | bytes) -> QuarantinedMessage:
    fields = json.loads(entry)
    return QuarantinedMessage(fields["reason"], fields["at"], fields["raw"].encode("latin-1"), fields["size"])
