"""Limits on what a client costs before its request is read: the HTTP protocol of `WorkflowServer.serve`.

uvicorn's faster protocol limits neither the size of a request's head nor the time it takes. This one does: a client
that sends too much, too slowly or nothing at all is disconnected, and a full server prefers clients that send requests.
"""

from __future__ import annotations

import asyncio
import resource
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

#: Maximum bytes of a request's head, including its first line, and maximum number of its header lines.
MAX_HEAD_BYTES, MAX_HEADERS = 32 << 10, 200
#: Seconds from the connection, or from the first byte of a further request, until its head must be complete.
HEAD_SECONDS = 10.0
#: A body may take this long, and a second more for each `BODY_BYTES_PER_SECOND` that have arrived.
BODY_SECONDS, BODY_BYTES_PER_SECOND = 20.0, 1 << 10
#: How often the rate of a body is checked.
CHECK_SECONDS = 1.0
#: Maximum connections of one process; fewer if it may not open that many files.
MAX_CONNECTIONS = 10_000
#: Connections that asyncio accepts at once, before any can be refused here; also the kernel's queue.
BACKLOG = 64
#: Files reserved for other uses than clients, and for clients being refused, which takes four rounds of the loop.
RESERVED_FILES = 64 + 4 * BACKLOG


def most_connections() -> int:
    """How many connections this process can serve without running out of file descriptors."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(16, min(MAX_CONNECTIONS, files - RESERVED_FILES))


_TOO_LARGE = b"431 Request Header Fields Too Large"

#: By server: its connections that have not sent a complete request head yet, oldest first.
_waiting: WeakKeyDictionary[ServerState, dict[ConnectionProtocol, None]] = WeakKeyDictionary()


class ConnectionProtocol(HttpToolsProtocol):
    """One connection. `limit_concurrency` of the configuration is the number of connections."""

    _head_bytes = 0
    _header_bytes = 0
    _body_bytes = 0
    _body_since = 0.0
    _is_too_large = False
    _in_head = False
    _in_body = False
    _timer: asyncio.TimerHandle | None = None

    @property
    def _heads(self) -> dict[ConnectionProtocol, None]:
        return _waiting.setdefault(self.server_state, {})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for the connection, or refuse it."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            oldest = next(iter(self._heads), None)
            if oldest is None:
                self._refuse(b"503 Service Unavailable")
                return
            oldest._cut()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process data, within the limits."""
        before = self._in_head
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and before:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)
        elif self._timer is None and not self._in_body and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()  # bytes that do not begin a request must not keep a connection open

    # -- callbacks of the parser -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request has arrived."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._header_bytes = True, 0, 0
        if self._timer is None:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        """A part of the request's first line has arrived."""
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived. Headers beyond the limits are not stored."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._is_too_large = True
            raise ValueError("the head of the request is too large")  # ends in send_400_response
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: the request is served, and its body must arrive."""
        self._in_head = False
        self._stop()
        self._in_body, self._body_bytes, self._body_since = True, 0, self.loop.time()
        super().on_headers_complete()
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check_body)

    def on_body(self, body: bytes) -> None:
        """A part of the body has arrived."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._in_body = False
        self._stop()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Another protocol takes over the connection."""
        self._stop()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """The parser has stopped with an error."""
        if self._is_too_large:
            self._refuse(_TOO_LARGE)
        else:
            self._stop()
            super().send_400_response(msg)

    # -- time ------------------------------------------------------------------------------------------------------

    def _expect_head(self) -> None:
        self._heads[self] = None
        self._timer = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _check_body(self) -> None:
        if self.flow.read_paused:  # this server is not reading
            self._body_since += CHECK_SECONDS
        late = self.loop.time() - self._body_since - BODY_SECONDS
        if late > self._body_bytes / BODY_BYTES_PER_SECOND or self.cycle.response_complete:
            self._cut()  # too slow, or already refused
        else:
            self._timer = self.loop.call_later(CHECK_SECONDS, self._check_body)

    def _stop(self) -> None:
        self._heads.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        """End the connection immediately, even if data is still to be sent."""
        self._stop()
        self.transport.abort()

    def _refuse(self, status: bytes) -> None:
        self._stop()
        self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
