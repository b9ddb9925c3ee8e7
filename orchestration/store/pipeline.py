"""The connection to Redis: scripts and commands of many coroutines in few round trips.

What is asked during one turn of the event loop goes out as one write. Replies come back in the order of the requests,
and each is judged for its own caller: a script that fails, or that Redis does not have, concerns nobody else. redis-py
makes the connection (TLS, credentials, database); from then on its transport is used directly, because awaiting reply
by reply costs more than the scripts themselves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hiredis import Reader
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from ..connection.deployment import Deployment
from ..connection.failpoints import failpoint
from ..connection.portal import Portal
from ..connection.redis_client import is_passing, pool_of, refusal_of, refuse_old_server, unavailable
from ..connection.stopping import is_stopped, stop
from .asks import Command, Replies, Request, ScriptCall, packed, packed_script, packed_with_library

T = TypeVar("T")

FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0

#: How Redis says that it does not have the library of functions.
NO_FUNCTION = "ERR Function not found"


class Connection:
    """One connection to Redis, on the loop of a portal; its methods may be awaited on any loop.

    Made by `nodes.connection_to` where Redis may be a cluster.

    *Promise:* everything asked here is idempotent, and is asked again while Redis does not answer. After the patience
    it is not known whether the last try was applied.
    """

    #: Whether one script or command may have keys of several shards.
    spans_shards = True

    def __init__(
        self,
        url: str,
        portal: Portal,
        *,
        patience_seconds: float = 5.0,
        silence_seconds: float = 5.0,
        grouped: bool = True,
    ) -> None:
        """Connects when first used.

        Args:
            url: Where Redis is.
            portal: Whose loop the connection lives on.
            patience_seconds: How long an outage is waited out, unless a request says otherwise.
            silence_seconds: How long a reply may take before the connection counts as broken.
            grouped: Else one request is sent after the other, each when the one before is answered.

        Raises:
            ConfigurationError: The URL is not a Redis URL.
        """
        self.url, self.portal, self.patience_seconds = url, portal, patience_seconds
        self._silence, self._is_grouped = silence_seconds, grouped
        options: dict[str, Any] = {"protocol": 2, "socket_connect_timeout": 5.0, "socket_timeout": silence_seconds}
        self._pool = pool_of(ConnectionPool, url, **options, retry=Retry(NoBackoff(), 0))
        #: Number of the Redis database that the URL selects.
        self.database = int(self._pool.connection_kwargs.get("db") or 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        #: What every connection that is made is compared with.
        self.deployment: Deployment | None = None

    # -- asking ----------------------------------------------------------------------------------------------------

    async def run(self, call: ScriptCall[T], *, patience_seconds: float | None = None) -> T:
        """Run one script and read its reply.

        Raises:
            StoreUnavailable: Redis did not answer within the patience.
            ConfigurationError: Redis refuses the credentials, or is too old.
        """
        request = self._of_call(call, patience_seconds)
        if self.portal.is_here():
            return call.read(await self._begun(request))
        return call.read(await self.portal.run(self._reply(request)))

    async def command(self, what: str, *command: Any, name: str = "", patience_seconds: float | None = None) -> Any:
        """Send one command; its reply as Redis gives it (RESP2, bytes).

        Args:
            what: What is being done, for errors.
            command: Name and arguments.
            name: What failpoints call it.
            patience_seconds: How long an outage is waited out.

        Raises:
            As `run`.
        """
        return await self._reply(self._of_commands(what, (command,), name, patience_seconds))

    async def transaction(self, what: str, *commands: Command, patience_seconds: float | None = None) -> list[Any]:
        """Send commands that are applied together (MULTI); their replies.

        Raises:
            As `run`.
        """
        all_of_it = (("MULTI",), *commands, ("EXEC",))
        replies: list[Any] = await self._reply(self._of_commands(what, all_of_it, "", patience_seconds))
        return replies

    async def batch(
        self, what: str, items: Sequence[Command | ScriptCall[Any]], *, patience_seconds: float | None = None
    ) -> list[Any]:
        """Send commands and scripts together; their replies, in order. They are not applied together.

        Raises:
            As `run`, for the first that failed.
        """
        requests = [
            self._of_call(item, patience_seconds)
            if isinstance(item, ScriptCall)
            else self._of_commands(what, (item,), "", patience_seconds)
            for item in items
        ]
        replies = await self._replies(requests)
        return [
            item.read(reply) if isinstance(item, ScriptCall) else reply
            for item, reply in zip(items, replies, strict=True)
        ]

    async def everywhere(self, what: str, *command: Any, patience_seconds: float | None = None) -> list[Any]:
        """Send one command to each server that has runs; their replies.

        Raises:
            As `run`.
        """
        return [await self.command(what, *command, patience_seconds=patience_seconds)]

    def post(self, command: Command, failed: Callable[[Exception], None]) -> None:
        """Send a command that nobody waits for, once. To be called on the portal's loop.

        Args:
            command: Its name and arguments.
            failed: Called when Redis did not take it.
        """
        self._enqueue(Request("", packed(command), 0.0, "push", failed=failed))

    def another(self, client_name: str) -> Any:
        """A further connection of redis-py's to the same Redis, for its caller alone, who connects and closes it.

        Args:
            client_name: What Redis lists it as, unless the URL names it.
        """
        connection = self._pool.make_connection()
        connection.client_name = connection.client_name or client_name
        return connection

    async def close(self) -> None:
        """Close the connection. What is asked is not answered any more."""
        if self._loop is not None and self._loop is self.portal.loop:
            await self.portal.run(self._close())

    async def _close(self) -> None:
        if self._serving is not None:
            stop(self._serving)
            await asyncio.wait([self._serving])
        self._loop = None
        self._keep_unanswered(ConnectionError("the connection was closed"), math.inf)

    def _of_call(self, call: ScriptCall[Any], patience: float | None) -> Request:
        # Packed here: what cannot be sent is its caller's fault, and must not break up what goes out in one write.
        sent = packed_script(call)
        return Request(call.what, sent, self._patience(patience), call.script.name, call=call)

    def _of_commands(self, what: str, commands: Sequence[Command], name: str, patience: float | None) -> Request:
        count = len(commands)
        sent = packed(commands[0]) if count == 1 else b"".join(map(packed, commands))
        return Request(what, sent, self._patience(patience), name, replies_left=count, total=count)

    def _patience(self, patience: float | None) -> float:
        return self.patience_seconds if patience is None else patience

    async def _reply(self, request: Request) -> Any:
        if self.portal.is_here():
            return await self._begun(request)
        return await self.portal.run(self._reply(request))

    async def _replies(self, requests: Sequence[Request]) -> list[Any]:
        if not self.portal.is_here():
            return await self.portal.run(self._replies(requests))
        replies = await asyncio.gather(*map(self._begun, requests), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    def _begun(self, request: Request) -> asyncio.Future[Any]:
        request.future = asyncio.get_running_loop().create_future()
        self._enqueue(request)
        return request.future

    # -- sending ---------------------------------------------------------------------------------------------------

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on this loop; also in a forked child, which uses nothing of what its parent has connected."""
        self._loop = loop
        self._waiting: deque[Request] = deque()  # to be sent
        self._asked: deque[Request] = deque()  # sent, in order
        self._loading: dict[str, Request] = {}  # library -> the request that brings it
        self._heard_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._is_flushing = False
        self._serving: asyncio.Task[None] | None = None
        self.portal.on_close(self._close)

    def _enqueue(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._begin(loop)
        self._waiting.append(request)
        if self._serving is None:
            self._begin_serving()
        if self._is_flushing:
            return
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
            for request in group:
                if request.name:
                    failpoint(request.name, "before")
        except ConnectionError:
            self._transport.abort()
            return
        self._transport.write(b"".join([request.packed for request in group]))

    # -- receiving -------------------------------------------------------------------------------------------------

    def _begin_serving(self) -> None:
        self._serving = asyncio.get_running_loop().create_task(self._serve())
        self._serving.add_done_callback(self._go_on)

    def _go_on(self, served: asyncio.Task[None]) -> None:
        """Ask again where a step has cancelled all that runs on its loop."""
        if served.cancelled() and not is_stopped(served):
            self._serving = None
            self._keep_unanswered(ConnectionError("its task was cancelled"), 0.0)
            if self._waiting:
                self._begin_serving()

    def _keep_unanswered(self, error: Exception, pause: float) -> None:
        # What was asked and not answered may have been applied or not; asked again, it is answered all the same.
        unanswered, self._asked = [*self._asked, *self._waiting], deque()
        self._waiting = deque(request for request in unanswered if not self._settle(request, error, pause))

    async def _serve(self) -> None:
        """Keep a connection until it is lost while nothing is asked; the next request makes another one."""
        pause = FIRST_PAUSE
        while True:
            connection = self._pool.make_connection()
            error: Exception = ConnectionError("Connection closed by server.")
            try:
                await connection.connect()
                await self._judge(connection)
                pause = FIRST_PAUSE
                await self._converse(connection)
            except Exception as failure:
                error = failure
            finally:
                self._transport = None
                await connection.disconnect(nowait=True)
            self._keep_unanswered(error, pause)
            if not self._waiting:
                self._serving = None
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _judge(self, connection: Any) -> None:
        """See whether a server that was just connected to will do."""
        await refuse_old_server(connection, self.url)
        if self.deployment is not None:
            await self.deployment.judge(connection, self.url)

    async def _converse(self, connection: Any) -> None:
        transport: asyncio.Transport = connection._writer.transport
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(Replies(self._heard, lost))
        self._transport = transport
        self._flush()
        while not lost.done():
            await asyncio.wait([lost], timeout=self._silence / 4)
            # Half of a connection may be gone: nothing comes although something was asked.
            if self._asked and time.monotonic() - self._heard_at > self._silence:
                transport.abort()
                raise TimeoutError(f"No reply for {self._silence:g} s.")

    def _heard(self, replies: Reader) -> None:
        self._heard_at = time.monotonic()
        while (reply := replies.gets(False)) is not False:
            request = self._asked[0]
            request.replies_left -= 1
            if isinstance(reply, Exception) and request.error is None:
                request.error = reply
            if not request.replies_left:
                self._asked.popleft()
                self._take(request, request.error or reply)
        if not self._is_grouped:
            self._flush()

    def _take(self, request: Request, reply: Any) -> None:
        try:
            if request.name:
                failpoint(request.name, "after")
        except ConnectionError as error:
            reply = error
        if isinstance(reply, ResponseError) and str(reply).startswith("READONLY") and self._transport is not None:
            self._transport.abort()  # no primary any more: the next connection leads to the present one
        if self._settle(request, reply):
            return
        if request.with_library and str(reply).startswith(NO_FUNCTION):
            self._enqueue(request)
        else:
            asyncio.get_running_loop().call_later(FIRST_PAUSE, self._enqueue, request)

    def _with_library(self, request: Request, call: ScriptCall[Any]) -> None:
        """Have a script asked again, after the library if no other request brings that already."""
        request.with_library = True
        if self._loading.setdefault(call.script.library.name, request) is request:
            request.packed, request.total = packed_with_library(call), 2
        else:
            request.packed, request.total = packed_script(call), 1
        request.replies_left = request.total

    def _settle(self, request: Request, reply: Any, pause: float = FIRST_PAUSE) -> bool:
        """Give a caller its answer; False when it has to be asked again, after a pause that its patience allows."""
        if request.call is not None and request.total > 1:
            self._loading.pop(request.call.script.library.name, None)
        request.replies_left, request.error = request.total, None
        future = request.future
        if future is None:
            if isinstance(reply, Exception) and request.failed is not None:
                request.failed(reply)
            return True
        if future.done():  # nobody waits any more; what was asked is applied or not, as with any lost reply
            return True
        if not isinstance(reply, Exception):
            future.set_result(reply)
        elif (refusal := refusal_of(self.url, reply)) is not None:
            future.set_exception(refusal)
        elif request.call is not None and isinstance(reply, ResponseError) and str(reply).startswith(NO_FUNCTION):
            self._with_library(request, request.call)
            return False
        elif not is_passing(reply) and isinstance(reply, ResponseError):
            future.set_exception(reply)
        elif isinstance(reply, TimeoutError) and request.patience_seconds and not request.has_timed_out:
            # The silence may have used up the patience with Redis in the best of health: one more try, however late.
            request.has_timed_out = True
            return False
        elif time.monotonic() + pause > request.asked_at + request.patience_seconds:
            error = unavailable(self.url, request.what, request.patience_seconds, reply)
            error.__cause__ = reply
            future.set_exception(error)
        else:
            return False
        return True
