"""The live half of streams: one pub/sub connection for a whole process, on the loop of the store's portal.

Messages may be lost: Redis forgets one as soon as it is sent. Listeners are therefore notified when a subscription
takes effect, initially and after an interruption, and then read the log. Not here: the log, what messages mean, and how
they reach listeners on other event loops (`relay.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable
from typing import Any

from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError, RedisError, ResponseError

from ..connection.redis_client import cut, refusal_of
from ..connection.settings import redact_url
from ..model.errors import UmbelError, WorkflowRuntimeError
from ..store.asks import Replies
from ..store.verbs import Store
from .log import read_heads
from .relay import Listener, Relay

logger = logging.getLogger("umbel.streams")

#: Seconds before the first attempt to reconnect, and the longest pause; pauses double in between.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
#: The same if the ACL forbids subscribing: until it is changed, readers continue from the log.
REFUSED_PAUSE = 30.0
#: Seconds between two PINGs; a connection that has not answered one by the next is dropped.
KEEPALIVE = 5.0
#: Channels per SUBSCRIBE, so that a process that follows thousands of runs does not send a megabyte at once.
CHANNELS = 500

CLOSED = "The stream hub is closed: its runtime was shut down. Make a new one to go on reading."


class LiveChannels:
    """Channels of one Redis, received over one connection for any number of listeners on any event loops.

    Made once per process; in a forked child it has no effect.
    """

    def __init__(self, store: Store, poll_seconds: float) -> None:
        """Nothing is connected before the first listener.

        Args:
            store: Its Redis and portal are used.
            poll_seconds: How often the followed runs are checked, and channels without listeners dropped.
        """
        self.pid = os.getpid()
        self.store = store
        self.poll_seconds = poll_seconds
        self.where = redact_url(store.settings.redis_url or "")
        self.loop = store.connection.portal.loop
        self._relays: dict[asyncio.AbstractEventLoop, Relay] = {}
        # The rest is only used on the loop.
        self._channels: dict[bytes, bool] = {}  # subscribed channel -> whether Redis has confirmed it
        self._transport: asyncio.Transport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = self._is_out = self._owes_answer = False
        self._refusal: Exception | None = None
        self._pause = FIRST_PAUSE

    # -- for listeners ---------------------------------------------------------------------------------------------

    def here(self) -> Relay:
        """The relay that the listeners on the running loop share."""
        loop = asyncio.get_running_loop()
        known = self._relays.get(loop)
        if known is None:
            for other in list(self._relays):
                if other.is_closed():
                    self._relays.pop(other, None)
            known = self._relays[loop] = Relay(self.loop)
        return known

    def join(self, relay: Relay, channel: bytes, listener: Listener) -> None:
        """Subscribe a listener to a channel; its `joined` is called when it takes effect, and after every outage.

        Raises:
            WorkflowRuntimeError: Closed.
        """
        if relay.is_closed:
            raise WorkflowRuntimeError(CLOSED)
        if relay.add(channel, listener):
            self.soon(self._join, channel, relay)

    def leave(self, relay: Relay, channel: bytes, listener: Listener) -> None:
        """The inverse of `join`; a channel without listeners is dropped with the next poll.

        May be called from any thread, also from a finalizer.
        """
        if self.pid == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nothing is received there any more
                relay.loop.call_soon_threadsafe(relay.remove, channel, listener)

    def is_heard(self, channel: bytes) -> bool:
        """Whether messages published on a channel now arrive here. Call it from any thread."""
        return self._channels.get(channel, False)

    def close(self) -> None:
        """End the connection; listeners are `closed`. Call it from any thread."""
        with contextlib.suppress(WorkflowRuntimeError):
            self.soon(self._close)

    def soon(self, act: Callable[..., None], *args: Any) -> None:
        """Call a function on the portal's loop. Call it from any thread.

        Raises:
            WorkflowRuntimeError: That loop is closed.
        """
        if self.pid != os.getpid():
            return
        try:
            self.loop.call_soon_threadsafe(act, *args)
        except RuntimeError:
            raise WorkflowRuntimeError(CLOSED) from None

    # -- on the loop -----------------------------------------------------------------------------------------------

    def _join(self, channel: bytes, relay: Relay) -> None:
        if self._is_closed:
            relay.tell(relay.closed)
            return
        if not self._tasks:
            self._tasks = [self.loop.create_task(self._serve()), self.loop.create_task(self._look_around())]
            self.store.connection.portal.on_close(self._end)
        if channel not in self._channels:
            self._channels[channel] = False
            self._send("SUBSCRIBE", channel)
        elif self._channels[channel]:
            relay.tell(relay.joined, channel)

    def _close(self) -> None:
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        for relay in self._all_relays():
            relay.tell(relay.closed)

    async def _end(self) -> None:
        self._close()
        await asyncio.wait(self._tasks)

    def _all_relays(self) -> list[Relay]:
        return [relay for relay in list(self._relays.values()) if not relay.loop.is_closed()]

    async def _look_around(self) -> None:
        """Every `poll_seconds`, drop channels without listeners and check all followed runs together."""
        while True:
            await asyncio.sleep(self.poll_seconds)
            self._drop_deserted()
            run_ids = {run_id for relay in self._all_relays() for run_id in relay.run_ids()}
            try:
                heads = await read_heads(self.store, list(run_ids))
            except (UmbelError, RedisError) as error:
                logger.debug("could not read the runs that are followed: %s", error, extra={"action": "follow_failed"})
                continue
            for relay in self._all_relays() if heads else ():
                relay.tell(relay.checked, heads)

    def _drop_deserted(self) -> None:
        deserted = set(self._channels).difference(*(relay.channels() for relay in self._all_relays()))
        for channel in deserted:
            del self._channels[channel]
        if deserted:
            self._send("UNSUBSCRIBE", *deserted)

    # -- the connection --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Keep a connection until closed."""
        while True:
            try:
                await self._converse()
            except ResponseError as error:
                refusal = refusal_of(self.store.connection.url, error)
                self._note_lost(refusal or error)
                self._pause = REFUSED_PAUSE if refusal is not None else self._pause
            except (RedisError, OSError) as error:
                self._note_lost(error)
            except Exception as error:
                logger.exception(
                    "the live connection failed unexpectedly; connecting again", extra={"action": "live_error"}
                )
                self._note_lost(error)
            # Many processes lose one Redis at the same instant; they should not reconnect at the same instant.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    async def _converse(self) -> None:
        """Connect, subscribe to all channels, and receive messages until the connection is lost.

        Raises:
            RedisError, OSError: The connection could not be made, or is lost.
        """
        connection = self.store.connection.another("umbel-streams")
        lost: asyncio.Future[None] = self.loop.create_future()
        self._refusal, self._owes_answer = None, False
        try:
            await connection.connect()
            self._transport = connection._writer.transport
            self._transport.set_protocol(Replies(self._hear, lost))
            channels = list(self._channels)
            for start in range(0, len(channels), CHANNELS):
                self._send("SUBSCRIBE", *channels[start : start + CHANNELS])
            while not lost.done():
                await asyncio.wait([lost], timeout=KEEPALIVE)
                if not lost.done():
                    self._ping()
            raise self._refusal or ConnectionError("Connection closed by server.")
        finally:
            self._transport = None
            self._channels = dict.fromkeys(self._channels, False)
            await cut(connection)

    def _ping(self) -> None:
        if self._owes_answer:
            raise OSError(f"no answer within {KEEPALIVE:g} s")
        self._owes_answer = True
        self._send("PING")

    def _send(self, *command: Any) -> None:
        if self._transport is not None:
            self._transport.write(pack_command(command))

    def _hear(self, replies: Reader) -> None:
        self._owes_answer = False
        while (reply := replies.gets(False)) is not False:
            if isinstance(reply, Exception):
                self._refusal = reply
                if self._transport is not None:
                    self._transport.abort()
            elif isinstance(reply, list):  # otherwise it answers a PING while no channel is subscribed
                self._take(*reply)

    def _take(self, kind: bytes, channel: bytes, content: Any = None) -> None:
        if kind == b"message":
            for relay in self._all_relays():
                if relay.hears(channel):
                    relay.tell(relay.heard, channel, content, size=len(content))
        elif kind == b"subscribe" and channel in self._channels:
            self._note_restored()
            self._channels[channel] = True
            for relay in self._all_relays():
                relay.tell(relay.joined, channel)

    def _note_restored(self) -> None:
        self._pause = FIRST_PAUSE
        if self._is_out:
            self._is_out = False
            logger.info("live events from Redis at %s are back", self.where, extra={"action": "live_back"})

    def _note_lost(self, error: Exception) -> None:
        if not self._is_out:
            self._is_out = True
            logger.warning(
                "live events from Redis at %s are interrupted (%s); nothing is lost, readers continue from the log",
                self.where,
                error,
                extra={"action": "live_lost"},
            )
