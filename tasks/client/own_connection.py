"""Starts runs over a connection that only the calling thread uses during the call.

`run()` blocks until the run is in Redis. A request over the shared connection, which belongs to the portal's loop,
needs two thread switches, and these take longer than the script itself. So the calling thread sends the start and reads
the reply itself. After any fault the request is repeated over the shared connection, which waits for outages to end.
This is safe because every script may be repeated.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from hiredis import Reader
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError
from redis.retry import Retry

from ...orchestration.connection.failpoints import failpoint
from ...orchestration.connection.redis_client import pool_of
from ...orchestration.engine.protocol import Engine
from ...orchestration.model.plan import Plan
from ...orchestration.store.asks import ScriptCall
from ...orchestration.store.pipeline import Connection
from ...orchestration.store.replies import Dispatch
from ...orchestration.store.verbs import Store

T = TypeVar("T")

#: A connection that was unused for this many seconds is replaced: it may have died without notice.
_IDLE_SECONDS = 30.0
#: Most idle connections that are kept; more are open only while that many threads start runs at the same time.
_KEPT = 4
#: The least time in seconds that the shared connection gets, however much was spent before.
_LEAST_PATIENCE = 1.0


class OwnConnection(Connection):
    """Runs scripts in the calling thread. A coroutine that makes no other requests can be run by `drive`."""

    def __init__(self, shared: Connection, *, silence_seconds: float = 5.0) -> None:
        """Args:
        shared: The connection to use after a fault.
        silence_seconds: How long a reply may take before the shared connection is used.
        """
        patience = shared.patience_seconds
        super().__init__(shared.url, shared.portal, patience_seconds=patience, silence_seconds=silence_seconds)
        self._shared = shared
        self._maker = pool_of(
            ConnectionPool,
            shared.url,
            protocol=2,
            socket_timeout=silence_seconds,
            socket_connect_timeout=silence_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._pid, self._judged_pid = os.getpid(), 0
        self._idle: deque[tuple[Any, float]] = deque()

    async def run(self, call: ScriptCall[T], *, patience_seconds: float | None = None) -> T:
        patience = self.patience_seconds if patience_seconds is None else patience_seconds
        begun = time.monotonic()
        if (
            self._judged_pid != os.getpid()
        ):  # the shared connection checks whether this process belongs to the deployment
            self.portal.call(self._shared.command(call.what, "PING", patience_seconds=patience))
            self._judged_pid = os.getpid()
        try:
            reply = self._asked_here(self._of_call(call, patience).packed, call.script.name)
        except (OSError, RedisError) as fault:
            spent = time.monotonic() - begun
            if isinstance(fault, TimeoutError) and spent < self._silence:
                raise  # raised by a signal handler of the caller
            left = min(patience, max(_LEAST_PATIENCE, patience - spent))
            return self.portal.call(self._shared.run(call, patience_seconds=left))
        return call.read(reply)

    def _asked_here(self, request: bytes, name: str) -> Any:
        """Send a request and read its reply.

        Raises:
            OSError, RedisError: Redis refused the request or did not answer.
        """
        connection = self._taken()
        try:
            failpoint(name, "before")
            connection._sock.sendall(request)
            replies = Reader(replyError=ResponseError)
            while (reply := replies.gets()) is False:
                received = connection._sock.recv(65536)
                if not received:
                    raise ConnectionError("Connection closed by server.")
                replies.feed(received)
            failpoint(name, "after")
        except BaseException:  # also if the thread is interrupted: the reply may still arrive
            connection.disconnect()
            raise
        if len(self._idle) < _KEPT:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.disconnect()
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def _taken(self) -> Any:
        if self._pid != os.getpid():  # a forked child must not use its parent's connections
            self._pid, self._idle = os.getpid(), deque()
        while self._idle:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - since < _IDLE_SECONDS:
                return connection
            connection.disconnect()
        made: Any = self._maker.make_connection()
        made.connect()
        return made

    def disconnect(self) -> None:
        """Close the idle connections. The next script connects again."""
        while self._idle:
            self._idle.pop()[0].disconnect()


class _WaitedFor:
    """Sends dispatches while the calling thread waits."""

    def __init__(self, engine: Engine, connection: Connection) -> None:
        self._dispatcher, self._portal = engine.dispatcher, connection.portal

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        if dispatches:
            self._portal.call(self._dispatcher.dispatch(plan, dispatches))

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        self._portal.loop.call_soon_threadsafe(self._dispatcher.dispatch_soon, plan, dispatches)


def engine_here(engine: Engine, connection: OwnConnection) -> Engine:
    """An engine that works in the calling thread like `engine` on the portal's loop."""
    return Engine(Store(connection, engine.store.settings), _WaitedFor(engine, connection))


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run, in this thread, a coroutine that never waits for an event loop.

    Raises:
        RuntimeError: The coroutine waits for an event loop.
        Exception: What the coroutine raised.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("A coroutine that was to run without an event loop waits for one.")
