"""A TCP proxy in front of a Redis that can lose, delay and cut traffic; its faults can be switched while it runs.

It understands just enough of the protocol to match replies to commands: that is required to lose the reply to a
chosen command *after* Redis has applied it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import hiredis

from support.faults.tcp_server import TcpServer
from umbel.orchestration.store.scripts import load

#: Decides by a command as it was sent: its name and arguments.
Match = Callable[[list[bytes]], bool]

_CHUNK = 1 << 16
#: SO_LINGER value that makes closing send a reset instead of an orderly shutdown.
_RESET = struct.pack("ii", 1, 0)


def script(verb: str) -> Match:
    """Matches one of umbel's scripts."""
    known = load(verb).function.encode()
    return lambda command: len(command) > 1 and command[1] == known


def command(name: str) -> Match:
    """Matches a Redis command by its name."""
    return lambda sent: bool(sent) and sent[0].upper() == name.encode()


@dataclass(eq=False)
class LostReplies:
    """Which replies to lose.

    Attributes:
        match: Matches the commands whose replies are lost.
        most: The maximum number of replies to lose.
        chance: The probability of losing each of them.
        when_lost: Called after Redis has applied the command and before the client can retry.
        lost: How many have been lost.
    """

    match: Match
    most: int
    chance: float
    chosen: random.Random
    when_lost: Callable[[], None]
    lost: int = 0
    under_way: int = 0

    def takes(self, sent: list[bytes]) -> bool:
        if self.lost + self.under_way >= self.most or not self.match(sent) or self.chosen.random() >= self.chance:
            return False
        self.under_way += 1
        return True


@dataclass(eq=False)
class _Connection:
    """A client and its connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    is_silent: bool = False
    is_half_closed: bool = False
    asked: deque[LostReplies | None] = field(default_factory=deque)  # per command in progress: which loses its reply
    requests: Any = field(default_factory=hiredis.Reader)
    replies: Any = field(default_factory=hiredis.Reader)

    def reset(self) -> None:
        for side in (self.client, self.server):
            if side is not None and side.transport is not None and not side.transport.is_closing():
                sock = side.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                side.transport.abort()


class Proxy:
    """Listens on its own port inside a `with` block; one thread, any number of connections.

    All methods can be called from any thread and have taken effect when they return.
    """

    def __init__(self, url: str) -> None:
        """Args:
        url: The Redis behind the proxy.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[_Connection] = set()
        self._losing: list[LostReplies] = []
        self._delay_seconds = 0.0
        self._swallows_new = False
        self.port = 0
        self.aim(url)

    def __enter__(self) -> Self:
        self._thread.start()

        async def listen() -> TcpServer:
            return TcpServer(self._serve, limit=_CHUNK)

        self._server: TcpServer = self._do(listen)
        self.port = self._server.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def end() -> None:
            for connection in tuple(self._connections):
                connection.reset()
            await self._server.close()

        self._do(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The URL of Redis through this proxy."""
        parts = urlsplit(self.behind)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(
            parts._replace(netloc=f"{login}@127.0.0.1:{self.port}" if login else f"127.0.0.1:{self.port}")
        )

    def aim(self, url: str) -> None:
        """Route new connections to this server."""
        self.behind = url
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)

    # -- faults ----------------------------------------------------------------------------------------------------

    def reset(self, chance: float = 1.0, chosen: random.Random | None = None) -> int:
        """Break connections with a TCP reset; returns how many."""

        async def act() -> int:
            found = [each for each in self._connections if chosen is None or chosen.random() < chance]
            for connection in found:
                connection.reset()
            return len(found)

        return self._do(act)

    def blackhole(self, *, new: bool = False) -> int:
        """Drop all traffic of the existing connections without notifying either side; returns how many.

        The server's side stays open, as when a machine in between has gone: whatever it sends there is lost.

        Args:
            new: New connections are accepted and silent too, until `heal`.
        """

        async def act() -> int:
            for connection in self._connections:
                connection.is_silent = True
            self._swallows_new = new
            return len(self._connections)

        return self._do(act)

    def half_close(self) -> int:
        """Signal the end of the server's side to each client; what clients send still arrives."""

        async def act() -> int:
            for connection in self._connections:
                connection.is_half_closed = True
                with contextlib.suppress(OSError):
                    connection.client.write_eof()
            return len(self._connections)

        return self._do(act)

    def delay(self, seconds: float) -> None:
        """Delay all traffic by this time, in both directions."""
        self._set("_delay_seconds", seconds)

    def lose_replies(
        self,
        match: Match,
        *,
        most: int = 1,
        chance: float = 1.0,
        chosen: random.Random | None = None,
        when_lost: Callable[[], None] = lambda: None,
    ) -> LostReplies:
        """Cut the connection after Redis has applied a matching command and before the client gets the reply.

        An error reply is passed on: nothing was applied.
        """
        losing = LostReplies(match, most, chance, chosen or random.Random(0), when_lost)

        async def act() -> None:
            self._losing.append(losing)

        self._do(act)
        return losing

    def heal(self) -> None:
        """End all faults. Silent connections stay silent, as do connections whose peer has gone."""

        async def act() -> None:
            self._losing.clear()
            self._delay_seconds = 0.0
            self._swallows_new = False

        self._do(act)

    # -- on the proxy's thread -------------------------------------------------------------------------------------

    def _do(self, act: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def _set(self, name: str, value: Any) -> None:
        async def act() -> None:
            setattr(self, name, value)

        self._do(act)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, is_silent=self._swallows_new)
        self._connections.add(connection)
        answers: asyncio.Task[None] | None = None
        try:
            server_reader, connection.server = await asyncio.open_connection(*self._target, limit=_CHUNK)
            answers = asyncio.create_task(self._answers(connection, server_reader))
            await self._questions(connection, reader)
            if connection.is_silent:
                # The server does not notice that the client has gone.
                await answers
        except OSError:
            pass
        finally:
            if answers is not None:
                answers.cancel()
            connection.reset()
            for losing in connection.asked:
                if losing is not None:
                    losing.under_way -= 1
            self._connections.discard(connection)

    async def _questions(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        assert connection.server is not None
        while data := await reader.read(_CHUNK):
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            if connection.is_silent:
                continue
            connection.requests.feed(data)
            while (sent := connection.requests.gets()) is not False:
                connection.asked.append(next((each for each in self._losing if each.takes(sent)), None))
            connection.server.write(data)
            await connection.server.drain()

    async def _answers(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                if connection.is_silent or connection.is_half_closed:
                    continue
                if self._is_lost(connection, data):
                    break
                connection.client.write(data)
                await connection.client.drain()
        if not connection.is_silent:
            connection.reset()

    def _is_lost(self, connection: _Connection, data: bytes) -> bool:
        """Return whether these bytes complete a reply that is to be lost."""
        connection.replies.feed(data)
        is_lost = False
        while (reply := connection.replies.gets()) is not False:
            # A message published to subscribers is the reply to no command.
            losing = connection.asked.popleft() if connection.asked else None
            if losing is None:
                continue
            losing.under_way -= 1
            if not isinstance(reply, hiredis.ReplyError):
                losing.lost += 1
                losing.when_lost()
                is_lost = True
        return is_lost
