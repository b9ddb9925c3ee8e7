"""Malformed broker messages: what is wrong with one, where it is kept, and how to read them back.

Such a message must neither end a worker nor delay other messages. It is moved into a bounded list next to its queue,
with the bytes as they arrived, and counted; nothing is dropped silently. `channel` takes messages from the broker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from ...orchestration.connection.failpoints import failpoint
from ...orchestration.connection.keys import QUARANTINE_KEY
from ...orchestration.connection.redis_client import connect
from ...orchestration.connection.settings import Settings, redis_behind
from ...orchestration.model.errors import UmbelError

#: Messages kept per queue, enough to see what a faulty publisher sends; more are only counted.
KEPT_PER_QUEUE = 1000

#: Bytes kept of one message: the list of a queue never holds more than KEPT_PER_QUEUE times this.
KEPT_BYTES = 256 * 1024


class Undecodable(UmbelError):
    """A broker message is malformed; the text says what was expected and what was found."""


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


def envelope_fault(envelope: object, encodings: Collection[str]) -> str | None:
    """What makes a decoded message unusable, or None; its body is not read.

    Checks what kombu and Celery use unchecked: each of these faults would end a worker or its connection. What they
    tolerate passes, such as the smaller envelopes of Celery clients in other languages.

    Args:
        envelope: The message's parsed JSON.
        encodings: Body encodings that the channel can decode.
    """
    if not isinstance(envelope, dict):
        return f"expected a JSON object, found {_kind(envelope)}"
    properties = envelope.get("properties")
    if not isinstance(properties, dict):
        return f"expected an object as 'properties', found {_kind(properties)}"
    tag = properties.get("delivery_tag")
    if not isinstance(tag, str) or not tag:
        return f"expected a text as 'properties.delivery_tag', found {_kind(tag)}"
    if not isinstance(properties.get("delivery_info", {}), dict):
        return f"expected an object as 'properties.delivery_info', found {_kind(properties['delivery_info'])}"
    encoding = properties.get("body_encoding")
    if not (encoding is None or (isinstance(encoding, str) and encoding.lower() in {"", "utf-8", *encodings})):
        return f"expected a known 'properties.body_encoding' ({', '.join(sorted(encodings))}), found {encoding!r:.80}"
    if not isinstance(envelope.get("body"), str):
        return f"expected a text as 'body', found {_kind(envelope.get('body'))}"
    for name in ("content-type", "content-encoding"):
        if not isinstance(envelope.get(name), str | None):
            return f"expected a text as {name!r}, found {_kind(envelope[name])}"
    headers = envelope.get("headers", {})
    if not isinstance(headers, dict):
        return f"expected an object as 'headers', found {_kind(headers)}"
    return _task_header_fault(headers) if "task" in headers else None


def body_fault(headers: Mapping[str, Any], body: object) -> str | None:
    """What makes a decoded body unusable for Celery, or None.

    With a `task` header, the body must follow Celery's protocol 2; without one, protocol 1.
    """
    if "task" in headers:
        if not isinstance(body, list | tuple) or len(body) != 3:
            return f"expected [args, kwargs, embed] as the body of task {headers['task']!r:.80}, found {_kind(body)}"
        args, kwargs, embed = body
        if not (isinstance(args, list | tuple) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
            found = f"[{_kind(args)}, {_kind(kwargs)}, {_kind(embed)}]"
            return f"expected [list, object, object] as the body of task {headers['task']!r:.80}, found {found}"
        return None
    if not isinstance(body, dict) or not isinstance(body.get("task"), str) or not isinstance(body.get("id"), str):
        return f"expected a task: a 'task' and an 'id' in 'headers' or in the body, found a body of {_kind(body)}"
    return None


def _task_header_fault(headers: Mapping[str, Any]) -> str | None:
    for name in ("task", "id"):
        if not isinstance(headers.get(name), str):
            return f"expected a text as 'headers.{name}', found {_kind(headers.get(name))}"
    limits = headers.get("timelimit")
    if limits and not (isinstance(limits, list) and len(limits) == 2):
        return f"expected two time limits as 'headers.timelimit', found {_kind(limits)}"
    return None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(entry: str | bytes) -> QuarantinedMessage:
    fields = json.loads(entry)
    return QuarantinedMessage(fields["reason"], fields["at"], fields["raw"].encode("latin-1"), fields["size"])
