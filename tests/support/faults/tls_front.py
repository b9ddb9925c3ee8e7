"""TLS in front of a plain server, as Redis providers offer it; works also with a server built without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.faults.tcp_server import TcpServer


@contextmanager
def tls_front(folder: Path, port_behind: int, *, asks: bool = True) -> Iterator[int]:
    """Yield a port that speaks TLS and forwards to another port.

    Args:
        folder: Contains `ca.pem`, `server.pem` and `server.key`.
        port_behind: The target port on loopback.
        asks: Require a client certificate of this authority.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    loop, port = asyncio.new_event_loop(), 0
    listening, ending = threading.Event(), asyncio.Event()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port_behind)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, back))
                both.create_task(_copy(there, writer))
        finally:
            back.transport.abort()

    async def serve() -> None:
        nonlocal port
        async with TcpServer(forward, tls=context) as server:
            port = server.port
            listening.set()
            await ending.wait()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    listening.wait()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.transport.abort()
