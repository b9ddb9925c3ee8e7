"""A TCP server that ends with all its connections, for proxies that are ended while clients connect to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

#: Serves one accepted connection, which is cut when this returns.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: Loop iterations within which the transports of cancelled connections have closed their sockets.
_ITERATIONS = 10


class TcpServer:
    """Listens on a port of loopback until it is closed; an `async with` block closes it.

    `asyncio.start_server` leaves a connection open that it accepts in the moment in which it is closed. Its socket
    stays with the garbage collector, whose warning fails some later test.
    """

    def __init__(self, serve: Serve, *, limit: int = 1 << 16, tls: ssl.SSLContext | None = None) -> None:
        """Listen at once. Must be called on the loop that serves.

        Args:
            serve: Called in a task of its own for each connection; the task is cancelled when the server is closed.
            limit: The read buffer of a connection, in bytes.
            tls: Connections have to speak TLS.
        """
        self._serve, self._limit, self._tls = serve, limit, tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port: int = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and cut every connection. When this returns, all their sockets are closed."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(_ITERATIONS):
            await asyncio.sleep(0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.setblocking(False)
                task = asyncio.create_task(self._serve_one(accepted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                # The task has not begun and so closes nothing if it is cancelled at once.
                task.add_done_callback(lambda _, accepted=accepted: accepted.close())

    async def _serve_one(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        with contextlib.suppress(OSError):  # TLS that the client does not speak, or a client that has gone
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await self._serve(reader, writer)
            finally:
                transport.abort()
