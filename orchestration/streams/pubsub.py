"""The live half of streams: one pub/sub connection for a whole process, on the loop of the store's portal.

What is heard here may be incomplete: Redis forgets a message as soon as it is sent. So subscribers learn when a channel
(again) begins to be heard, and look into the log then. Not here: the log, what messages mean, and the way to readers on
other event loops (`relay.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hiredis import HiredisError, Reader, pack_command
from redis.exceptions import ConnectionError, RedisError, ResponseError

from ..model.errors import UmbelError, WorkflowRuntimeError
from ..store.settings import redact_url
from ..store.verbs import Store
from .log import read_heads

logger = logging.getLogger("umbel.streams")

#: Seconds before the first and, doubling, the slowest attempt to connect again.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
#: Seconds between two PINGs; a connection that has not answered one by the next is given up.
KEEPALIVE = 5.0
#: Channels per SUBSCRIBE: a process that follows thousands of runs sends no megabyte at once.
CHANNELS = 500

CLOSED = "The stream hub is closed: its runtime was shut down. Make a new one to go on reading."


class Subscriber:
    """Hears channels. All methods but `run_ids` are called on the portal's loop: they are quick and never block."""

    def joined(self, channel: bytes) -> None:
        """From now on messages are heard; what was published before may have been missed."""

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message was published."""

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """Per run the last number it had given a moment ago, and whether it goes on."""

    def closed(self) -> None:
        """Nothing will be heard any more."""

    def run_ids(self) -> Collection[str]:
        """The runs to be looked at every now and then on the subscriber's behalf."""
        return ()

    def is_dead(self) -> bool:
        """Nobody is there any more, and nobody has left."""
        return False


def tell(method: Callable[..., None], *args: Any) -> None:
    """Call a subscriber or listener; one that fails must not silence the others."""
    try:
        method(*args)
    except Exception:
        logger.exception("a listener of live events failed", extra={"action": "listener_error"})


@dataclass(slots=True)
class _Channel:
    subscribers: set[Subscriber] = field(default_factory=set)
    is_heard: bool = False


class _Replies(asyncio.Protocol):
    """Reads what Redis sends to a connection that is subscribed."""

    def __init__(self, take: Callable[[Any], None], lost: asyncio.Future[Exception]) -> None:
        self._reader = Reader(replyError=ResponseError)
        self._take, self._lost = take, lost

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except (RedisError, HiredisError) as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionError("Connection closed by server."))

    def _end(self, error: Exception) -> None:
        if not self._lost.done():
            self._lost.set_result(error)


class LiveChannels:
    """Channels of one Redis, heard over one connection by any number of subscribers.

    `join`, `leave` and `close` may be called from any thread, also from a finalizer: they only leave a note for the
    portal's loop. In a forked child they are without effect.
    """

    def __init__(self, store: Store, poll_seconds: float) -> None:
        """Nothing is connected before the first subscriber.

        Args:
            store: Whose Redis and portal are used.
            poll_seconds: How often the followed runs are looked at, and channels without subscribers dropped.
        """
        self.pid = os.getpid()
        self.loop = store.connection.portal.loop
        self.where = redact_url(store.settings.redis_url or "")
        self._store = store
        self._poll_seconds = poll_seconds
        # Below: only used on the loop.
        self._channels: dict[bytes, _Channel] = {}
        self._transport: asyncio.Transport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = self._is_out = self._owes_answer = False
        self._pause = FIRST_PAUSE

    # -- from any thread -------------------------------------------------------------------------------------------

    def join(self, channel: bytes, subscriber: Subscriber) -> None:
        """Let a subscriber hear a channel; its `joined` is called when it does, now and after every outage.

        Raises:
            WorkflowRuntimeError: Closed.
        """
        try:
            self._soon(self._join, channel, subscriber)
        except RuntimeError:
            raise WorkflowRuntimeError(CLOSED) from None

    def leave(self, channel: bytes, subscriber: Subscriber) -> None:
        """The contrary; the last one to leave ends the subscription, at the next look around."""
        with contextlib.suppress(RuntimeError):
            self._soon(self._leave, channel, subscriber)

    def close(self) -> None:
        """End the connection; subscribers are `closed`."""
        with contextlib.suppress(RuntimeError):
            self._soon(self._close)

    def _soon(self, act: Callable[..., None], *args: Any) -> None:
        if self.pid == os.getpid():
            self.loop.call_soon_threadsafe(act, *args)

    # -- on the loop -----------------------------------------------------------------------------------------------

    def _join(self, name: bytes, subscriber: Subscriber) -> None:
        if self._is_closed:
            tell(subscriber.closed)
            return
        if not self._tasks:
            self._tasks = [self.loop.create_task(self._serve()), self.loop.create_task(self._look_around())]
            self._store.connection.portal.on_close(self._end)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._send("SUBSCRIBE", name)
        channel.subscribers.add(subscriber)
        if channel.is_heard:
            tell(subscriber.joined, name)

    def _leave(self, name: bytes, subscriber: Subscriber) -> None:
        if name in self._channels:
            self._channels[name].subscribers.discard(subscriber)

    def _close(self) -> None:
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        for subscriber in self._subscribers():
            tell(subscriber.closed)
        self._channels.clear()

    async def _end(self) -> None:
        self._close()
        await asyncio.wait(self._tasks)

    def _subscribers(self) -> set[Subscriber]:
        return {subscriber for channel in self._channels.values() for subscriber in channel.subscribers}

    async def _look_around(self) -> None:
        """Every now and then, drop what nobody hears any more and look at all followed runs at once."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            self._drop_deserted()
            run_ids = {run_id for subscriber in self._subscribers() for run_id in subscriber.run_ids()}
            try:
                heads = await read_heads(self._store, list(run_ids))
            except (UmbelError, RedisError) as error:
                logger.debug("could not look at the runs that are followed: %s", error, extra={"action": "look_failed"})
                continue
            for subscriber in self._subscribers() if heads else ():
                tell(subscriber.checked, heads)

    def _drop_deserted(self) -> None:
        for channel in self._channels.values():
            channel.subscribers -= {each for each in channel.subscribers if each.is_dead()}
        deserted = [name for name, channel in self._channels.items() if not channel.subscribers]
        for name in deserted:
            del self._channels[name]
        if deserted:
            self._send("UNSUBSCRIBE", *deserted)

    # -- the connection --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Keep a connection until closed."""
        while True:
            try:
                await self._converse()
            except (RedisError, OSError) as error:
                self._note_lost(error)
            except Exception as error:
                logger.exception(
                    "the live connection met an error of its own; connecting again", extra={"action": "live_error"}
                )
                self._note_lost(error)
            # Many processes lose one Redis at the same instant; they should not come back at the same instant.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    async def _converse(self) -> None:
        """Connect, subscribe to everything, and hear until the connection is lost.

        Raises:
            RedisError, OSError: It could not be made, or is lost.
        """
        connection = self._store.connection.another("umbel-streams")
        lost: asyncio.Future[Exception] = self.loop.create_future()
        try:
            await connection.connect()
            self._transport = connection._writer.transport
            self._transport.set_protocol(_Replies(self._take, lost))
            self._owes_answer = False
            names = list(self._channels)
            for start in range(0, len(names), CHANNELS):
                self._send("SUBSCRIBE", *names[start : start + CHANNELS])
            while not lost.done():
                await asyncio.wait([lost], timeout=KEEPALIVE)
                if not lost.done():
                    self._ping()
            raise lost.result()
        finally:
            self._transport = None
            for channel in self._channels.values():
                channel.is_heard = False
            await connection.disconnect(nowait=True)

    def _ping(self) -> None:
        if self._owes_answer:
            raise OSError(f"no answer within {KEEPALIVE:g} s")
        self._owes_answer = True
        self._send("PING")

    def _send(self, *command: Any) -> None:
        if self._transport is not None:
            self._transport.write(pack_command(command))

    def _take(self, reply: Any) -> None:
        """One message, or one answer."""
        self._owes_answer = False
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply, list):
            return  # the answer to a PING while no channel is subscribed
        kind, name = reply[0], reply[1]
        channel = self._channels.get(name)
        if channel is None:
            return
        if kind == b"message":
            for subscriber in channel.subscribers:
                tell(subscriber.heard, name, reply[2])
        elif kind == b"subscribe":
            self._note_restored()
            channel.is_heard = True
            for subscriber in channel.subscribers:
                tell(subscriber.joined, name)

    def _note_restored(self) -> None:
        self._pause = FIRST_PAUSE
        if self._is_out:
            self._is_out = False
            logger.info("live events from Redis at %s are back", self.where, extra={"action": "live_back"})

    def _note_lost(self, error: Exception) -> None:
        if not self._is_out:
            self._is_out = True
            logger.warning(
                "live events from Redis at %s are interrupted (%s); nothing is lost, readers go on from the log",
                self.where,
                error,
                extra={"action": "live_lost"},
            )
