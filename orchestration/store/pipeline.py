"""The connection to Redis: scripts and commands of many coroutines in few round trips.

Requests that are made during one iteration of the event loop are sent in one write. Replies come back in the order of
the requests, and each is handled for its own caller: a script that fails, or that Redis lacks, affects no other
request. redis-py makes the connection (TLS, credentials, database); from then on its transport is used directly,
because awaiting reply by reply costs more than the scripts themselves.
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
from ..connection.redis_client import cut, is_passing, pool_of, refusal_of, refuse_old_server, unavailable
from ..connection.stopping import is_stopped, stop
from .asks import Command, Replies, Request, ScriptCall, packed, packed_script, packed_with_library

T = TypeVar("T")

FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0

#: Redis's error when it does not have the library of functions.
NO_FUNCTION = "ERR Function not found"


class Connection:
    """One connection to Redis, on the loop of a portal; its methods may be awaited on any loop.

    Made by `nodes.connection_to` where Redis may be a cluster.

    *Promise:* every request is idempotent, and is retried while Redis does not answer (except `post`). If its patience
    is over, it is not known whether the last try was applied.
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
            url: Redis's URL.
            portal: The connection runs on its loop.
            patience_seconds: How long a request is retried during an outage, unless it says otherwise.
            silence_seconds: How long a reply may take before the connection counts as broken.
            grouped: Whether requests are sent together; if not, each is sent when the one before is answered.

        Raises:
            ConfigurationError: The URL is not a Redis URL.
        """
        self.url, self.portal, self.patience_seconds = url, portal, patience_seconds
        self._silence, self._is_grouped, self._server, self._server_changes = silence_seconds, grouped, "", 0
        options: dict[str, Any] = {"protocol": 2, "socket_connect_timeout": 5.0, "socket_timeout": silence_seconds}
        self._pool = pool_of(ConnectionPool, url, **options, retry=Retry(NoBackoff(), 0))
        #: Number of the Redis database that the URL selects.
        self.database = int(self._pool.connection_kwargs.get("db") or 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The deployment whose record each new connection is compared with.
        self.deployment: Deployment | None = None

    @property
    def server_changes(self) -> int:
        """How often it was connected to another server, or to one that was restarted: that may have been set back."""
        return self._server_changes

    # -- asking ----------------------------------------------------------------------------------------------------

    async def run(self, call: ScriptCall[T], *, patience_seconds: float | None = None) -> T:
        """Run one script and read its reply.

        Raises:
            StoreUnavailable: Redis did not answer within `patience_seconds`.
            ConfigurationError: Redis refuses the credentials, or is too old.
        """
        request = self._of_call(call, patience_seconds)
        if self.portal.is_here():
            return call.read(await self._begun(request))
        return call.read(await self.portal.run(self._reply(request)))

    async def command(self, what: str, *command: Any, name: str = "", patience_seconds: float | None = None) -> Any:
        """Send one command; returns its reply unchanged (RESP2, bytes).

        Args:
            what: What is being done, for errors.
            command: Name and arguments.
            name: Its name in failpoints.
            patience_seconds: How long it is retried during an outage.

        Raises:
            As `run`.
        """
        return await self._reply(self._of_commands(what, (command,), name, patience_seconds))

    async def transaction(self, what: str, *commands: Command, patience_seconds: float | None = None) -> list[Any]:
        """Send commands as one transaction (MULTI); returns their replies.

        Raises:
            As `run`.
        """
        all_of_it = (("MULTI",), *commands, ("EXEC",))
        replies: list[Any] = await self._reply(self._of_commands(what, all_of_it, "", patience_seconds))
        return replies

    async def batch(
        self, what: str, items: Sequence[Command | ScriptCall[Any]], *, patience_seconds: float | None = None
    ) -> list[Any]:
        """Send commands and scripts together; returns their replies in order. They are not applied atomically.

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
        """Send one command to each server that stores runs; returns their replies.

        Raises:
            As `run`.
        """
        return [await self.command(what, *command, patience_seconds=patience_seconds)]

    def post(self, command: Command, failed: Callable[[Exception], None]) -> None:
        """Send a command once, without waiting for its reply. Call it on the portal's loop.

        Args:
            command: Its name and arguments.
            failed: Called if the command failed.
        """
        self._enqueue(Request("", packed(command), 0.0, "push", failed=failed))

    def another(self, client_name: str) -> Any:
        """A further redis-py connection to the same Redis, for the caller alone, who connects and closes it.

        Args:
            client_name: Its name in Redis's list of clients, unless the URL sets one.
        """
        connection = self._pool.make_connection()
        connection.client_name = connection.client_name or client_name
        return connection

    async def close(self) -> None:
        """Close the connection. Requests that are not answered yet fail."""
        if self._loop is not None and self._loop is self.portal.loop:
            await self.portal.run(self._close())

    async def _close(self) -> None:
        if self._serving is not None:
            stop(self._serving)
            await asyncio.wait([self._serving])
        self._loop = None
        self._keep_unanswered(ConnectionError("the connection was closed"), math.inf)

    def _of_call(self, call: ScriptCall[Any], patience: float | None) -> Request:
        # Packed here: a request that cannot be encoded is its caller's fault, and must not break the write of others.
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
        """Begin on this loop; also in a forked child, which uses none of its parent's connections."""
        self._loop = loop
        self._waiting: deque[Request] = deque()  # to be sent
        self._asked: deque[Request] = deque()  # sent, in order
        self._loading: dict[str, Request] = {}  # library -> the request that loads it
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
            self._flush()  # no other request is unanswered: waiting for more would only take time
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
        """Serve again if a step has cancelled all tasks on its loop."""
        if served.cancelled() and not is_stopped(served):
            self._serving = None
            self._keep_unanswered(ConnectionError("its task was cancelled"), 0.0)
            if self._waiting:
                self._begin_serving()

    def _keep_unanswered(self, error: Exception, pause: float) -> None:
        # An unanswered request may have been applied or not; sent again, it gets the same answer in both cases.
        unanswered, self._asked = [*self._asked, *self._waiting], deque()
        self._waiting = deque(request for request in unanswered if not self._settle(request, error, pause))

    async def _serve(self) -> None:
        """Keep a connection until it is lost while no request is unanswered; the next request makes another one."""
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
                await cut(connection)
            self._keep_unanswered(error, pause)
            if not self._waiting:
                self._serving = None
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _judge(self, connection: Any) -> None:
        """Check that a server that was just connected to may be used."""
        self._meet(await refuse_old_server(connection, self.url))
        if self.deployment is not None:
            await self.deployment.judge(connection, self.url)

    def _meet(self, server: str) -> None:
        if server != self._server:
            self._server, self._server_changes = server, self._server_changes + 1

    async def _converse(self, connection: Any) -> None:
        transport: asyncio.Transport = connection._writer.transport
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(Replies(self._heard, lost))
        self._transport = transport
        self._flush()
        while not lost.done():
            await asyncio.wait([lost], timeout=self._silence / 4)
            # The connection may be half open: no reply comes although there are requests.
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
            self._transport.abort()  # no longer the primary: the next connection leads to the new one
        if self._settle(request, reply):
            return
        if request.with_library and str(reply).startswith(NO_FUNCTION):
            self._enqueue(request)
        else:
            asyncio.get_running_loop().call_later(FIRST_PAUSE, self._enqueue, request)

    def _with_library(self, request: Request, call: ScriptCall[Any]) -> None:
        """Prepare a script to be sent again, after the library unless another request already loads that."""
        request.with_library = True
        if self._loading.setdefault(call.script.library.name, request) is request:
            request.packed, request.total = packed_with_library(call), 2
        else:
            request.packed, request.total = packed_script(call), 1
        request.replies_left = request.total

    def _settle(self, request: Request, reply: Any, pause: float = FIRST_PAUSE) -> bool:
        """Give a caller its answer; False if the request must be sent again, after a pause that its patience allows."""
        if request.call is not None and request.total > 1:
            self._loading.pop(request.call.script.library.name, None)
        request.replies_left, request.error = request.total, None
        future = request.future
        if future is None:
            if isinstance(reply, Exception) and request.failed is not None:
                request.failed(reply)
            return True
        if future.done():  # no caller waits any longer; the request is applied or not, as with any lost reply
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
            # The silence may have used up the patience although Redis is healthy: one more try, however late.
            request.has_timed_out = True
            return False
        elif time.monotonic() + pause > request.asked_at + request.patience_seconds:
            error = unavailable(self.url, request.what, request.patience_seconds, reply)
            error.__cause__ = reply
            future.set_exception(error)
        else:
            return False
        return True
