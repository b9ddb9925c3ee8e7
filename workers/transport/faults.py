"""What is wrong with a malformed broker message: anyone with access to the broker may have written it.

Checked is what kombu and Celery use unchecked: each of these faults would end a worker or its connection, or keep one
of its places for ever. What they tolerate passes, such as the smaller envelopes of Celery clients in other languages.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from ...orchestration.model.errors import UmbelError
from ...tasks.messages.template import HEADER

#: Lists and objects inside each other that a message may have. JSON is parsed down to almost a thousand, but what is
#: done with the message later, such as pickling it for a child process, fails on less, where nothing handles it.
MOST_NESTED = 300

#: Celery computes two to the power of it for `retry_backoff`, which takes minutes and gigabytes if it is larger.
_MOST_RETRIES = 10**8


class Undecodable(UmbelError):
    """A broker message is malformed; the text says what was expected and what was found."""


def envelope_fault(envelope: object, encodings: Collection[str]) -> str | None:
    """What makes a decoded message unusable, or None; its body is not read.

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
    if not tag.isascii():
        return f"expected only ASCII characters in 'properties.delivery_tag', found {tag!r:.80}"
    if not isinstance(properties.get("delivery_info", {}), dict):
        return f"expected an object as 'properties.delivery_info', found {_kind(properties['delivery_info'])}"
    priority = properties.get("priority")
    if isinstance(priority, float) and not math.isfinite(priority):
        return f"expected a number from 0 to 9 as 'properties.priority', found {priority!r}"
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
    return task_fault(headers, "headers") if "task" in headers else None


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
    return task_fault(body, "body")


def nesting_fault(value: object) -> str | None:
    """Whether a decoded value has lists and objects inside each other more than MOST_NESTED times."""
    level = [value]
    for _ in range(MOST_NESTED + 1):
        containers = [each for each in level if isinstance(each, dict | list | tuple)]
        if not containers:
            return None
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
    return f"expected at most {MOST_NESTED} lists and objects inside each other, found more"


def may_be_nested(text: bytes) -> bool:
    """Whether JSON has enough brackets for `nesting_fault` to be asked: a fast check that dispatches never pass."""
    return text.count(b"[") + text.count(b"{") > MOST_NESTED


def task_fault(fields: Mapping[str, Any], place: str) -> str | None:
    """What Celery's consumer (celery/worker/strategy.py, celery/worker/request.py) would fail on."""
    for name in ("task", "id"):
        if not isinstance(fields.get(name), str):
            return f"expected a text as '{place}.{name}', found {_kind(fields.get(name))}"
    for name in ("shadow", HEADER):
        if not isinstance(fields.get(name), str | None):
            return f"expected a text as '{place}.{name}', found {_kind(fields[name])}"
    for name in ("eta", "expires"):
        moment = fields.get(name)
        if moment is not None and not (isinstance(moment, str | datetime) and moment):
            return f"expected a time as '{place}.{name}', found {_kind(moment) if moment != '' else 'an empty text'}"
    limits = fields.get("timelimit")
    if limits and not (isinstance(limits, list | tuple) and len(limits) == 2):
        return f"expected two time limits as '{place}.timelimit', found {_kind(limits)}"
    for limit in limits or ():
        if limit is not None and not (isinstance(limit, int | float) and 0 <= limit <= threading.TIMEOUT_MAX):
            return f"expected seconds as a time limit in '{place}.timelimit', found {_shown(limit)}"
    retries = fields.get("retries")
    if retries is not None and not (isinstance(retries, int) and 0 <= retries <= _MOST_RETRIES):
        return f"expected the number of retries as '{place}.retries', found {_shown(retries)}"
    stamped = fields.get("stamped_headers")
    if stamped and not (isinstance(stamped, list | tuple) and all(isinstance(each, str) for each in stamped)):
        return f"expected a list of texts as '{place}.stamped_headers', found {_shown(stamped)}"
    if not isinstance(fields.get("stamps"), dict | None):
        return f"expected an object as '{place}.stamps', found {_kind(fields['stamps'])}"
    return None


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # an integer of thousands of digits
        return _kind(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
