"""A run's events as bytes of a response that stays open: server-sent events, or one JSON object per line.

*Promise:* a reader gets every event behind its cursor once and in order, whichever replica it asks and however often it
asks again with the last `id` it has seen. A reader that is slower than its run is read for at the pace it takes the
bytes; what waits for it here is bounded, and nobody else notices. A stream that is broken off before the run's end is
cut, never closed politely: clients take a polite end for the end of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from functools import lru_cache

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import UmbelError
from ...orchestration.streams.reader import StreamReader
from ...tasks.client.handler import WorkflowHandler
from .protocol import event_json, qualified, short_name

logger = logging.getLogger("umbel.server")

HEARTBEAT = b": heartbeat\n\n"
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"
#: An event above this is made anew for each reader, so that nothing large is kept.
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
        after_sequence: Begin behind this number, such as the `Last-Event-ID` of a reader that comes back.
        include_internal: Also step state changes, idleness and unhandled events.
        event_types: Only events of these classes or below them, by name; empty is all.
        heartbeat_seconds: A comment is sent when nothing else was for so long; None sends none.
    """
    reader = handler.published(after_sequence, include_internal)
    async for frame in frames(reader, event_types=event_types, heartbeat_seconds=heartbeat_seconds):
        yield frame.decode()


async def frames(
    reader: StreamReader,
    *,
    sse: bool = True,
    with_qualified_name: bool = True,
    event_types: Collection[str] = (),
    heartbeat_seconds: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """What the reader reads, as pieces of a response; ends with the run.

    Args:
        reader: Where to begin and what to read.
        sse: Server-sent events with numbers; else lines of JSON, which have neither numbers nor heartbeats.
        with_qualified_name: See `EventEnvelopeWithMetadata`.
        event_types: Only events of these classes or below them; short or qualified names. Empty is all.
        heartbeat_seconds: As in `sse_events`.
    """
    wanted = frozenset(event_types)
    frame = _sse_frame if sse else _line
    told_missing: int | None = None
    is_over = False
    while not is_over:
        found = reader.aevents(heartbeat_seconds if sse else None)
        try:
            async with contextlib.aclosing(found):
                async for event in found:
                    if sse and reader.first_missing is not None and reader.first_missing != told_missing:
                        told_missing = reader.first_missing
                        yield b": events from number %d on are no longer kept\n\n" % told_missing
                    if not wanted or wanted & names_of(event.envelope):
                        yield frame(event.seq, event.envelope, with_qualified_name)
            is_over = True
        except TimeoutError:
            yield HEARTBEAT


@lru_cache(256)
def _names(name: str, parents: tuple[str, ...]) -> frozenset[str]:
    return frozenset(known for each in (name, *parents) for known in (each, qualified(each), short_name(each)))


def names_of(envelope: Envelope) -> frozenset[str]:
    """Everything an event answers to in a filter: its class and those above it, short and qualified."""
    return _names(envelope.type, envelope.parents)


def _sse_frame(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    make = _new_sse_frame if len(envelope.payload) > LARGE_BYTES else _shared_sse_frame
    return make(seq, envelope, with_qualified_name)


# Many readers of one run get the same bytes: they are made once. Few, recent and small ones, which cost little to keep.
@lru_cache(32)
def _shared_sse_frame(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    return _new_sse_frame(seq, envelope, with_qualified_name)


def _new_sse_frame(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (seq, event_json(envelope, with_qualified_name=with_qualified_name))


def _line(seq: int, envelope: Envelope, with_qualified_name: bool) -> bytes:
    return event_json(envelope, with_qualified_name=with_qualified_name) + b"\n"


class EventStreamResponse(Response):
    """Sends pieces as they come, for as long as the reader takes them and may have them."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        may_go_on: Callable[[], Awaitable[bool]] | None,
        check_seconds: float,
        slow_seconds: float,
        on_open: Callable[[int], None],
    ) -> None:
        """Args:
        pieces: What is sent.
        media_type: Of the whole.
        may_go_on: Asked again and again: whether who reads may still do so. None: there is nobody to ask.
        check_seconds: How often.
        slow_seconds: A reader that takes nothing for so long is cut off; it may come back.
        on_open: DeliveryResult +1 when the stream begins and -1 when it is over.
        """
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self.init_headers({"cache-control": "no-cache, no-store", "x-accel-buffering": "no"})
        self._pieces, self._may_go_on, self._on_open = pieces, may_go_on, on_open
        self._check_seconds, self._slow_seconds = check_seconds, slow_seconds
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._on_open(1)
        works = (self._send_all(send), _until_gone(receive), self._until_to_be_cut())
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pieces.aclose()
            self._on_open(-1)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})  # the headers go out now
        try:
            async for piece in self._pieces:
                self._sending_since = time.monotonic()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sending_since = None
        except UmbelError as error:  # the run was purged, Redis is away, this server is being stopped
            _cut(str(error))
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_to_be_cut(self) -> None:
        """One watch for the whole stream: a timer around each piece would cost more than the piece."""
        asked_at = time.monotonic()
        while True:
            await asyncio.sleep(min(self._slow_seconds, self._check_seconds) / 2)
            now, since = time.monotonic(), self._sending_since
            if since is not None and now - since >= self._slow_seconds:
                _cut(f"its reader took nothing for {self._slow_seconds:g} s")
                return
            if self._may_go_on is not None and now - asked_at >= self._check_seconds / 2:
                asked_at = now
                if not await self._may_go_on():
                    _cut("its reader may not read it any longer")
                    return


def _cut(why: str) -> None:
    logger.warning("a stream was cut: %s", why, extra={"action": "reader_cut"})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
