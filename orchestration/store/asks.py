"""What is asked of Redis: a script, how its reply is read, a request on its way, and what comes back."""

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
        read: Makes the reply a value.
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
        patience_seconds: How long an outage is waited out.
        name: What failpoints call it.
        future: Takes the reply; None if nobody waits for it.
        call: The script, if it is one.
        failed: Called when a request that nobody waits for was not taken.
        replies_left: Replies that are still to come.
        total: Replies that belong to it.
        with_library: The library goes with it: the server does not have it.
        error: The first error among its replies.
        has_timed_out: A connection that it was sent on went silent.
        slot: Of its keys, where Redis is a cluster.
        asked_at: When, on the monotonic clock.
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
    """A command as it is sent."""
    sent: bytes = pack_command(command)
    return sent


def packed_script(call: ScriptCall[Any]) -> bytes:
    """A script as it is sent."""
    return packed(("FCALL", call.script.function, len(call.keys), *call.keys, *call.args))


def packed_with_library(call: ScriptCall[Any]) -> bytes:
    """A script after the library that it is in, for a server that does not have it: two requests."""
    return packed(("FUNCTION", "LOAD", "REPLACE", call.script.library.text)) + packed_script(call)
