"""Scripts of many coroutines in few round trips: what is asked during one turn of the event loop goes out as one write.

Replies come back in the order of the questions, and each is judged for its own asker: a script that fails, or that
Redis has forgotten, is nobody else's matter. redis-py makes the connection (TLS, credentials, database); from then on
its transport is used directly, because awaiting reply by reply costs more than the scripts themselves.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hiredis import Reader, pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from .asks import ScriptCall
from .connection import is_passing, refused_credentials, unavailable
from .failpoints import failpoint

T = TypeVar("T")

#: Silence while something is asked, after which the connection counts as broken.
SILENCE_SECONDS = 5.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0

#: Refusals that are no mistake of the script's. They come before its first write: nothing of it is applied.
_REFUSALS: dict[str, type[RedisError]] = {
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "MISCONF": ReadOnlyError,
    "NOREPLICAS": ReadOnlyError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
}
#: How Redis before 7 tells of one that a command inside of a script met with.
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")


def _packed(*command: Any) -> bytes:
    packed: bytes = pack_command(command)
    return packed


def _script(ask: ScriptCall[Any], *script: str) -> bytes:
    return _packed(*script, len(ask.keys), *ask.keys, *ask.args)


def _refusal(text: str) -> Exception:
    """What Redis answers instead of a result."""
    inside = _IN_SCRIPT.search(text)
    return _REFUSALS.get(inside[1] if inside else text.partition(" ")[0], ResponseError)(text)


@dataclass(slots=True)
class _Waiting:
    """A question, or a command that nobody waits for, as it is sent."""

    deadline: float
    packed: bytes
    ask: ScriptCall[Any] | None = None
    future: asyncio.Future[Any] | None = None
    failed: Callable[[Exception], None] | None = None
    by_text: bool = False

    @property
    def verb(self) -> str:
        """What it is called at failpoints."""
        return self.ask.script.name if self.ask is not None else "push"


class _Replies(asyncio.Protocol):
    """Reads what Redis answers."""

    def __init__(self, heard: Callable[[Reader], None], lost: asyncio.Future[None]) -> None:
        self._reader = Reader(replyError=_refusal)
        self._heard, self._lost = heard, lost

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._heard(self._reader)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)


class GroupedConnection:
    """One connection of one event loop.

    *Promise:* as `Store`: every ask is idempotent and is repeated while Redis does not answer; after the patience it is
    not known whether the last try was applied.
    """

    def __init__(self, url: str, *, patience_seconds: float, grouped: bool = True) -> None:
        """Args:
        url: Where Redis is.
        patience_seconds: How long an outage is waited out.
        grouped: Else one is asked after the other, each when the one before is answered.
        """
        self._url, self._patience, self._is_grouped = url, patience_seconds, grouped
        options: dict[str, Any] = {"protocol": 2, "socket_connect_timeout": 5.0}
        self._pool: Any = ConnectionPool.from_url(url, **options, retry=Retry(NoBackoff(), 0))
        self._waiting: deque[_Waiting] = deque()  # to be sent
        self._asked: deque[_Waiting] = deque()  # sent, in order
        self._heard_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._serving: asyncio.Task[None] | None = None
        self._is_flushing = False

    async def do(self, ask: ScriptCall[T]) -> T:
        """The answer to one ask.

        Raises:
            StoreUnavailable: Redis did not answer within the patience.
            ConfigurationError: Redis refuses the credentials.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Packed here: what cannot be sent is its asker's fault, and must not break up what goes out in one write.
        packed = _script(ask, "EVALSHA", ask.script.sha)
        self._enqueue(_Waiting(time.monotonic() + self._patience, packed, ask, future))
        return ask.read(await future)

    def post(self, command: tuple[Any, ...], failed: Callable[[Exception], None]) -> None:
        """Send a command that nobody waits for, once.

        Args:
            command: Its name and arguments.
            failed: DeliveryResult when Redis did not take it.
        """
        self._enqueue(_Waiting(0.0, _packed(*command), failed=failed))

    async def close(self) -> None:
        """Close the connection. What is asked is not answered any more."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])

    # -- sending ---------------------------------------------------------------------------------------------------

    def _enqueue(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._is_flushing:
            return
        loop = asyncio.get_running_loop()
        if self._serving is None:
            self._serving = loop.create_task(self._serve())
        if self._transport is not None and not self._asked:
            self._flush()  # nobody else is asking: waiting for company would only take time
        else:
            self._is_flushing = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._transport is None or not self._waiting:
            return
        if not self._asked:
            self._heard_at = time.monotonic()
        if self._is_grouped:
            group, self._waiting = self._waiting, deque()
        elif not self._asked:
            group = deque([self._waiting.popleft()])
        else:
            return
        self._asked.extend(group)
        try:
            for waiting in group:
                failpoint(waiting.verb, "before")
        except ConnectionError:
            self._transport.abort()
            return
        self._transport.write(b"".join(waiting.packed for waiting in group))

    # -- receiving -------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Keep a connection, for as long as the loop lives."""
        pause = _FIRST_PAUSE
        while True:
            connection = self._pool.make_connection()
            error: Exception = ConnectionError("Connection closed by server.")
            try:
                await connection.connect()
                pause = _FIRST_PAUSE
                await self._converse(connection)
            except Exception as failure:
                error = failure
            finally:
                self._transport = None
                await connection.disconnect(nowait=True)
            # What was asked and not answered may have been applied or not; asked again, it is answered all the same.
            unanswered, self._asked = [*self._asked, *self._waiting], deque()
            self._waiting = deque(waiting for waiting in unanswered if not self._settle(waiting, error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _converse(self, connection: Any) -> None:
        transport: asyncio.Transport = connection._writer.transport
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(_Replies(self._heard, lost))
        self._transport = transport
        self._flush()
        while not lost.done():
            await asyncio.wait([lost], timeout=SILENCE_SECONDS / 4)
            # Half of a connection may be gone: nothing comes although something was asked.
            if self._asked and time.monotonic() - self._heard_at > SILENCE_SECONDS:
                transport.abort()

    def _heard(self, replies: Reader) -> None:
        self._heard_at = time.monotonic()
        while (reply := replies.gets(False)) is not False:
            self._take(self._asked.popleft(), reply)
        if not self._is_grouped:
            self._flush()

    def _take(self, waiting: _Waiting, reply: Any) -> None:
        try:
            failpoint(waiting.verb, "after")
        except ConnectionError as error:
            reply = error
        if self._settle(waiting, reply):
            return
        if waiting.by_text and str(reply).startswith("NOSCRIPT"):
            self._enqueue(waiting)
        else:
            asyncio.get_running_loop().call_later(_FIRST_PAUSE, self._enqueue, waiting)

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
        elif isinstance(reply, AuthenticationError):
            future.set_exception(refused_credentials(self._url, reply))
        elif isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT"):
            waiting.packed, waiting.by_text = _script(ask, "EVAL", ask.script.text), True
            return False
        elif not is_passing(reply) and isinstance(reply, ResponseError):
            future.set_exception(reply)
        elif time.monotonic() > waiting.deadline:
            future.set_exception(unavailable(self._url, ask.what, self._patience, reply))
        else:
            return False
        return True
