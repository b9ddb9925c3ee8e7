"""A run's events as a streamed response: server-sent events, or one JSON object per line.

*Promise:* a reader gets every event after its cursor once and in order, from any replica and after any number of
reconnections with the last `id` it has seen. A slow reader is served at its own pace; its buffer here is bounded, and
it delays no other reader. A stream that stops before the run's end is aborted, never completed: clients take a complete
response as the end of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from functools import lru_cache

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import UmbelError
from ...orchestration.streams.log import StreamEvent
from ...orchestration.streams.reader import StreamReader
from ...tasks.client.handler import WorkflowHandler
from .protocol import event_json, qualified, short_name

logger = logging.getLogger("umbel.server")

HEARTBEAT = b": heartbeat\n\n"
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"
#: Larger events are encoded for each reader, so that nothing large is cached.
LARGE_BYTES = 1 << 16


async def sse_events(
    handler: WorkflowHandler,
    *,
    after_sequence: int = -1,
    include_internal: bool = False,
    event_types: Collection[str] = (),
    heartbeat_seconds: float | None = 25.0,
) -> AsyncIterator[str]:
    """A run's events as server-sent events, for a streaming response of any web framework.

        StreamingResponse(sse_events(umbel.attach(run_id)), media_type="text/event-stream")

    Args:
        handler: The run.
        after_sequence: Begin after this number, such as the `Last-Event-ID` of a reader that reconnects.
        include_internal: Include step state changes, idleness and unhandled events.
        event_types: Only events of these classes or their subclasses, by name; empty for all.
        heartbeat_seconds: Seconds without an event after which a comment is sent; None for never.
    """
    reader = handler.published(after_sequence, include_internal)
    async for frame in frames(reader, event_types=event_types, heartbeat_seconds=heartbeat_seconds):
        yield frame.decode()


async def frames(
    reader: StreamReader,
    *,
    sse: bool = True,
    with_qualified_name: bool = True,
    with_origin: bool = False,
    event_types: Collection[str] = (),
    heartbeat_seconds: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """The reader's events as parts of a response; ends with the run.

    Args:
        reader: Reads the events.
        sse: Server-sent events with ids; else lines of JSON, which have neither ids nor heartbeats.
        with_qualified_name: See `EventEnvelopeWithMetadata`.
        with_origin: Whether server-sent events have a field `origin` with step, attempt and time.
        event_types: Only events of these classes or their subclasses; short or qualified names. Empty for all.
        heartbeat_seconds: As in `sse_events`.
    """
    wanted = frozenset(event_types)
    frame = _sse_frame if sse else _line
    reported_missing: int | None = None
    is_over = False
    while not is_over:
        found = reader.aevents(heartbeat_seconds if sse else None)
        try:
            async with contextlib.aclosing(found):
                async for event in found:
                    if sse and reader.first_missing is not None and reader.first_missing != reported_missing:
                        reported_missing = reader.first_missing
                        yield b": events from number %d on are no longer kept\n\n" % reported_missing
                    if not wanted or wanted & names_of(event.envelope):
                        origin = _origin(event) if sse and with_origin else b""
                        yield origin + frame(event.seq, event.envelope, with_qualified_name)
            is_over = True
        except TimeoutError:
            yield HEARTBEAT


@lru_cache(256)
def _names(name: str, parents: tuple[str, ...]) -> frozenset[str]:
    return frozenset(known for each in (name, *parents) for known in (each, qualified(each), short_name(each)))


def names_of(envelope: Envelope) -> frozenset[str]:
    """All names of an event in a filter: its class and base classes, short and qualified."""
    return _names(envelope.type, envelope.parents)


def _origin(event: StreamEvent) -> bytes:
    about = {"step": event.step, "attempt": event.attempt, "at": event.at}
    return b"origin: %b\n" % json.dumps(about, separators=(",", ":")).encode()


def _sse_frame(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    make = _new_sse_frame if len(envelope.payload) > LARGE_BYTES else _shared_sse_frame
    return make(seq, envelope, with_qualified_name)


# Many readers of one run get the same bytes, so these are cached: few, recent and small ones.
@lru_cache(32)
def _shared_sse_frame(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    return _new_sse_frame(seq, envelope, with_qualified_name)


def _new_sse_frame(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (seq, event_json(envelope, with_qualified_name=with_qualified_name))


def _line(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    return event_json(envelope, with_qualified_name=with_qualified_name) + b"\n"


class EventStreamResponse(Response):
    """Sends parts as they come, as long as the client reads them and is allowed to."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        is_still_allowed: Callable[[], Awaitable[bool]] | None,
        check_seconds: float,
        slow_seconds: float,
        on_open: Callable[[int], None],
    ) -> None:
        """Args:
        parts: The parts to send.
        media_type: Media type of the response.
        is_still_allowed: Called repeatedly: whether the client may still read. None for no check.
        check_seconds: How often it is called.
        slow_seconds: A client that reads nothing for this long is disconnected; it may reconnect.
        on_open: Called with +1 when the stream begins and with -1 when it ends.
        """
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self.init_headers({"cache-control": "no-cache, no-store", "x-accel-buffering": "no"})
        self._parts, self._is_still_allowed, self._on_open = parts, is_still_allowed, on_open
        self._check_seconds, self._slow_seconds = check_seconds, slow_seconds
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._on_open(1)
        works = (self._send_all(send), _until_disconnected(receive), self._until_revoked_or_slow())
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._parts.aclose()
            self._on_open(-1)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})  # sends the headers now
        try:
            async for part in self._parts:
                self._sending_since = time.monotonic()
                await send({"type": "http.response.body", "body": part, "more_body": True})
                self._sending_since = None
        except UmbelError as error:  # the run was purged, Redis is unreachable, this server is stopping
            _cut(str(error))
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_revoked_or_slow(self) -> None:
        """One check for the whole stream: a timer for each part would cost more than sending the part."""
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(min(self._slow_seconds, self._check_seconds) / 2)
            now, since = time.monotonic(), self._sending_since
            if since is not None and now - since >= self._slow_seconds:
                _cut(f"its client read nothing for {self._slow_seconds:g} s")
                return
            if self._is_still_allowed is not None and now - checked_at >= self._check_seconds / 2:
                checked_at = now
                if not await self._is_still_allowed():
                    _cut("its client is no longer allowed to read it")
                    return


def _cut(why: str) -> None:
    logger.warning("stream closed: %s", why, extra={"action": "reader_cut"})


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
