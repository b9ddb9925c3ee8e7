"""Requests to Redis: a script and how its reply is read, a request in progress, and how replies are received."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hiredis import Reader, pack_command

from ..connection.redis_client import error_of
from .scripts import Script

T = TypeVar("T")

#: One Redis command: its name and arguments.
Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ScriptCall(Generic[T]):
    """One verb on one run, ready to be sent.

    Attributes:
        what: What is being done, for errors.
        script: The verb.
        keys: KEYS.
        args: ARGV.
        read: Converts the reply into a value.
    """

    what: str
    script: Script
    keys: list[str]
    args: list[bytes]
    read: Callable[[Any], T]


class Replies(asyncio.Protocol):
    """Reads what Redis answers on a connection whose transport it takes over from redis-py."""

    def __init__(self, heard: Callable[[Reader], None], lost: asyncio.Future[None]) -> None:
        self._reader = Reader(replyError=error_of)
        self._heard, self._lost = heard, lost

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._heard(self._reader)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)


@dataclass(slots=True)
class Request:
    """One request as it is sent.

    Attributes:
        what: What is being done, for errors.
        packed: Its bytes.
        patience_seconds: How long it is retried during an outage.
        name: Its name in failpoints.
        future: Receives the reply; None if no caller waits for it.
        call: The script, if it is one.
        failed: Called if a request that no caller waits for has failed.
        replies_left: How many of its replies are still to come.
        total: How many replies it has.
        with_library: Whether it is sent again because the server lacked the library.
        error: The first error among its replies.
        has_timed_out: Whether a connection that it was sent on went silent.
        slot: The slot of its keys, where Redis is a cluster.
        asked_at: When it was made, on the monotonic clock.
    """

    what: str
    packed: bytes
    patience_seconds: float
    name: str = ""
    future: asyncio.Future[Any] | None = None
    call: ScriptCall[Any] | None = None
    failed: Callable[[Exception], None] | None = None
    replies_left: int = 1
    total: int = 1
    with_library: bool = False
    error: Exception | None = None
    has_timed_out: bool = False
    slot: int = 0
    asked_at: float = field(default_factory=time.monotonic)


def packed(command: Command) -> bytes:
    """Encode a command."""
    sent: bytes = pack_command(command)
    return sent


def packed_script(call: ScriptCall[Any]) -> bytes:
    """Encode a script call."""
    return packed(("FCALL", call.script.function, len(call.keys), *call.keys, *call.args))


def packed_with_library(call: ScriptCall[Any]) -> bytes:
    """Encode a script call after its library, for a server that lacks the library: two requests."""
    return packed(("FUNCTION", "LOAD", "REPLACE", call.script.library.text)) + packed_script(call)
