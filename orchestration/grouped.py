"""Scripts of many coroutines in few round trips: what is asked during one turn of the event loop rides in one pipeline.

While a pipeline is under way the next one gathers, so the group grows with the load and a lone question waits for
nobody. Each reply is judged for its own asker: a script that fails, or that Redis has forgotten, is nobody else's
matter.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, ResponseError

from .asks import Ask
from .connection import is_passing, refused_credentials, unavailable

T = TypeVar("T")

#: Scripts in one pipeline at most: Redis executes them one after the other, and others wait meanwhile.
MOST = 64


def _packed(command: tuple[Any, ...]) -> bytes:
    packed: bytes = pack_command(command)
    return packed


@dataclass(slots=True)
class _Waiting:
    """A question, or a command that nobody waits for."""

    deadline: float
    ask: Ask[Any] | None = None
    future: asyncio.Future[Any] | None = None
    command: tuple[Any, ...] = ()
    failed: Callable[[Exception], None] | None = None
    by_text: bool = False

    def packed(self) -> bytes:
        """As it is sent."""
        ask = self.ask
        if ask is None:
            return _packed(self.command)
        script = ("EVAL", ask.script.text) if self.by_text else ("EVALSHA", ask.script.sha)
        return _packed((*script, len(ask.keys), *ask.keys, *ask.args))


class GroupedConnection:
    """One connection of one event loop.

    *Promise:* as `Store`: every ask is idempotent and is repeated while Redis does not answer; after the patience it is
    not known whether the last try was applied.
    """

    def __init__(self, url: str, *, patience_seconds: float) -> None:
        """Args:
        url: Where Redis is.
        patience_seconds: How long an outage is waited out.
        """
        self._url = url
        self._patience = patience_seconds
        options: dict[str, Any] = {"protocol": 2, "socket_timeout": 10.0, "socket_connect_timeout": 5.0}
        pool: Any = ConnectionPool.from_url(url, **options, retry=Retry(NoBackoff(), 0))
        self._connection: Any = pool.make_connection()
        self._waiting: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def do(self, ask: Ask[T]) -> T:
        """The answer to one ask.

        Raises:
            StoreUnavailable: Redis did not answer within the patience.
            ConfigurationError: Redis refuses the credentials.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(time.monotonic() + self._patience, ask, future))
        return ask.read(await future)

    def post(self, command: tuple[Any, ...], failed: Callable[[Exception], None]) -> None:
        """Send a command that nobody waits for, once.

        Args:
            command: Its name and arguments.
            failed: Told when Redis did not take it.
        """
        self._enqueue(_Waiting(0.0, command=command, failed=failed))

    def _enqueue(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect()

    async def _send(self) -> None:
        pause = 0.02
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                again = await self._exchange(group)
                if again:
                    self._waiting.extendleft(reversed(again))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 1.0)
                else:
                    pause = 0.02
        finally:
            self._sender = None

    async def _exchange(self, group: list[_Waiting]) -> list[_Waiting]:
        """Ask one group; returns those that have to be asked again."""
        replies: list[Any] = []
        try:
            await self._connection.connect()  # does nothing if it is
            await self._connection.send_packed_command(b"".join(waiting.packed() for waiting in group))
            for _ in group:
                replies.append(await self._reply())
        except Exception as error:  # the connection: what has no reply is not known to have been applied
            await self._connection.disconnect(nowait=True)
            replies += [error] * (len(group) - len(replies))
        return [waiting for waiting, reply in zip(group, replies, strict=True) if not self._settle(waiting, reply)]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:  # Redis has answered, if only that it will not
            return error

    def _settle(self, waiting: _Waiting, reply: Any) -> bool:
        """Give an asker its answer; False when it has to be asked again."""
        future, ask = waiting.future, waiting.ask
        if future is None or ask is None:
            if isinstance(reply, Exception) and waiting.failed is not None:
                waiting.failed(reply)
            return True
        if future.done():  # nobody waits any more; what was asked is applied or not, as with any lost reply
            return True
        if not isinstance(reply, Exception):
            future.set_result(reply)
        elif isinstance(reply, NoScriptError):
            waiting.by_text = True
            return False
        elif isinstance(reply, AuthenticationError):
            future.set_exception(refused_credentials(self._url, reply))
        elif not is_passing(reply):
            future.set_exception(reply)
        elif time.monotonic() > waiting.deadline:
            future.set_exception(unavailable(self._url, ask.what, self._patience, reply))
        else:
            return False
        return True
