"""Scripts of many coroutines in few round trips: what is asked during one turn of the event loop rides in one pipeline.

While a pipeline is under way the next one gathers, so the group grows with the load and a lone question waits for
nobody. Each reply is judged for its own asker: a script that fails, or that Redis has forgotten, is nobody else's
matter, nor is one that Redis does not want to carry out just now.
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
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ResponseError

from .asks import Ask
from .connection import is_passing, refused_credentials, unavailable

T = TypeVar("T")

#: Scripts in one pipeline at most: Redis executes them one after the other, and others wait meanwhile.
MOST = 64

#: How long a command that nobody waits for is tried.
_BRIEFLY = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


def _packed(*command: Any) -> bytes:
    packed: bytes = pack_command(command)
    return packed


def _script(ask: Ask[Any], *script: str) -> bytes:
    return _packed(*script, len(ask.keys), *ask.keys, *ask.args)


@dataclass(slots=True)
class _Waiting:
    """A question, or a command that nobody waits for; as it is sent."""

    deadline: float
    packed: bytes
    ask: Ask[Any] | None = None
    future: asyncio.Future[Any] | None = None
    failed: Callable[[Exception], None] | None = None
    pause: float = _FIRST_PAUSE


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
        packed = _script(ask, "EVALSHA", ask.script.sha)  # here: what cannot be sent is its asker's fault alone
        self._enqueue(_Waiting(time.monotonic() + self._patience, packed, ask, future))
        return ask.read(await future)

    def post(self, command: tuple[Any, ...], failed: Callable[[Exception], None]) -> None:
        """Send a command that nobody waits for; for a second, until Redis takes it.

        Args:
            command: Its name and arguments. It may be carried out twice.
            failed: Told when Redis did not take it.
        """
        self._enqueue(_Waiting(time.monotonic() + _BRIEFLY, _packed(*command), failed=failed))

    def _enqueue(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect()

    async def _send(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                if await self._exchange(group):
                    pause = _FIRST_PAUSE
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._sender = None

    async def _exchange(self, group: list[_Waiting]) -> bool:
        """Ask one group; False when the connection has failed, and those without a reply are asked again."""
        replies: list[Any] = []
        failed: Exception | None = None
        try:
            await self._connection.connect()  # does nothing if it is
            await self._connection.send_packed_command(b"".join(waiting.packed for waiting in group))
            for _ in group:
                replies.append(await self._reply())
        except Exception as error:  # what has no reply is not known to have been applied
            await self._connection.disconnect(nowait=True)
            failed = error
        again = []
        for waiting, reply in zip(group, replies, strict=False):
            if isinstance(reply, NoScriptError) and waiting.ask is not None:
                waiting.packed = _script(waiting.ask, "EVAL", waiting.ask.script.text)
                again.append(waiting)
            elif not self._settle(waiting, reply):  # Redis will not just now: that holds up nobody else
                asyncio.get_running_loop().call_later(waiting.pause, self._enqueue, waiting)
                waiting.pause = min(2 * waiting.pause, _LONGEST_PAUSE)
        again += [waiting for waiting in group[len(replies) :] if not self._settle(waiting, failed)]
        self._waiting.extendleft(reversed(again))
        return failed is None

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except (ResponseError, BusyLoadingError) as error:  # Redis has answered, if only that it will not
            return error

    def _settle(self, waiting: _Waiting, reply: Any) -> bool:
        """Give an asker its answer; False when it has to be asked again."""
        future, ask = waiting.future, waiting.ask
        if future is not None and future.done():  # nobody waits any more; it is applied or not, as with a lost reply
            return True
        if not isinstance(reply, Exception):
            if future is not None:
                future.set_result(reply)
        elif is_passing(reply) and time.monotonic() <= waiting.deadline:
            return False
        elif future is None or ask is None:
            if waiting.failed is not None:
                waiting.failed(reply)
        elif isinstance(reply, AuthenticationError):
            future.set_exception(refused_credentials(self._url, reply))
        elif is_passing(reply):
            future.set_exception(unavailable(self._url, ask.what, self._patience, reply))
        else:
            future.set_exception(reply)
        return True
