"""The live half of streams: one pub/sub connection, served by one daemon thread for a whole process.

What is heard here may be incomplete: Redis forgets a message as soon as it is sent. So listeners are told when a
channel (again) begins to be heard, and look into the log then. Not here: the log, and what messages mean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import RedisError

from ..model.errors import WorkflowRuntimeError
from ..store.connection import Client

logger = logging.getLogger("umbel.streams")

#: Seconds before the first and, doubling, the slowest attempt to connect again.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
#: Seconds between two PINGs; a connection that has not answered one by the next is given up.
KEEPALIVE = 5.0
#: Messages handled before anything else gets its turn.
BURST = 1_000
#: Channels per SUBSCRIBE: a process that follows thousands of runs sends no megabyte at once.
CHANNELS = 500

CLOSED = "The stream hub is closed: its runtime was shut down. Make a new one to go on reading."


class _WakeUp:
    """Wakes the live thread, which waits for its connection and for this."""

    def __init__(self) -> None:
        self.ear, self._hand = socket.socketpair()
        self.ear.setblocking(False)
        self._hand.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it rings already; closed: the thread is gone
            self._hand.send(b"!")

    def silence(self) -> None:
        self.ear.recv(4096)

    def close(self) -> None:
        self.ear.close()
        self._hand.close()


class Listener:
    """Somebody who hears channels. All methods run on the live thread: they must be quick and must not block.

    Attributes:
        run_id: The run to be looked at every now and then on the listener's behalf, or None.
    """

    run_id: str | None = None

    def heard(self, message: bytes) -> None:
        """A message was published."""

    def joined(self) -> None:
        """From now on messages are heard; whatever was published before may have been missed."""

    def checked(self, head: int, running: bool) -> None:
        """How the run stood a moment ago: the last number it has given, and whether it goes on."""

    def closed(self) -> None:
        """Nothing will be heard any more."""


class LiveChannels:
    """Channels of one Redis, heard over one connection by any number of listeners.

    Every method but `log_checked` may be called from any thread, also from a finalizer: it only leaves a note for
    the live thread. In a forked child, which has no live thread, all are without effect.
    """

    def __init__(
        self, client: Client, *, where: str, tick_seconds: float, on_tick: Callable[[Sequence[str]], None]
    ) -> None:
        """Nothing is started or connected yet.

        Args:
            client: Whose address and credentials are used.
            where: The address as logs may show it.
            tick_seconds: How often `on_tick` is called and channels without listeners are dropped.
            on_tick: Gets the ids of all runs that are listened to; runs on the live thread.
        """
        self._client = client
        self._where = where
        self._tick_seconds = tick_seconds
        self._on_tick = on_tick
        self._pid = os.getpid()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._notes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake_up: _WakeUp | None = None
        self._stopping = self._stopped = False
        # Below: the live thread's alone.
        self._listeners: dict[bytes, set[Listener]] = {}
        self._heard: set[bytes] = set()
        self._connection: Any = None
        self._selector: selectors.BaseSelector
        self._more = False
        self._is_out = False
        self._pause = FIRST_PAUSE
        self._connect_at = 0.0
        self._next_tick = time.monotonic() + tick_seconds
        self._pinged_at = 0.0
        self._owes_answer = False

    # -- from any thread -------------------------------------------------------------------------------------------

    def join(self, channel: str, listener: Listener) -> None:
        """Let `listener` hear `channel`; it is told `joined` as soon as it does, now and after every outage.

        Raises:
            WorkflowRuntimeError: Closed.
        """
        if not self.post(lambda: self._join(channel.encode(), listener)):
            raise WorkflowRuntimeError(CLOSED)

    def leave(self, channel: str, listener: Listener) -> None:
        """The contrary; the last one to leave ends the subscription, at the next tick."""
        self.post(lambda: self._leave(channel.encode(), listener))

    def post(self, action: Callable[[], None]) -> bool:
        """Have `action` run on the live thread soon; False when that thread has ended."""
        if os.getpid() != self._pid:
            return False
        if self._thread is None:
            self._start()
        self._notes.put(action)
        if self._wake_up is not None:
            self._wake_up.ring()
        return not self._stopped

    def close(self) -> None:
        """End the connection and the thread; listeners are told `closed`."""
        if os.getpid() != self._pid:
            return
        with self._start_lock:
            self._stopping = True
            if self._thread is None or self._wake_up is None:
                self._stopped = True
                return
        self._wake_up.ring()
        if self._thread is not threading.current_thread():
            self._thread.join(5)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and not self._stopping:
                self._wake_up = _WakeUp()
                thread = threading.Thread(target=self._main, args=(self._wake_up,), name="umbel-streams", daemon=True)
                thread.start()
                self._thread = thread

    # -- the live thread -------------------------------------------------------------------------------------------

    def log_checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """Hand on how runs stand. To be called on the live thread."""
        for listeners in self._listeners.values():
            for listener in listeners:
                if listener.run_id is not None and listener.run_id in heads:
                    self._tell(listener.checked, *heads[listener.run_id])

    def _main(self, wake_up: _WakeUp) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake_up.ear, selectors.EVENT_READ, wake_up)
        while not self._stopping:
            try:
                self._turn(wake_up)
            except (RedisError, OSError) as error:
                self._lose(error)
            except Exception as error:
                logger.exception(
                    "the stream thread met an error of its own; connecting again", extra={"action": "live_error"}
                )
                self._lose(error)
        self._stopped = True
        self._read_notes(lambda action: self._tell(action))
        self._disconnect()
        for listener in {listener for listeners in self._listeners.values() for listener in listeners}:
            self._tell(listener.closed)
        self._listeners.clear()
        self._selector.close()
        wake_up.close()

    def _turn(self, wake_up: _WakeUp) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + self._tick_seconds
            self._tick(now)
        if self._connection is None and self._listeners and now >= self._connect_at:
            self._connect()
        ready = {key.data for key, _ in self._selector.select(self._idle_seconds(now))}
        if wake_up in ready:
            wake_up.silence()
            self._read_notes(lambda action: action())
        if self._connection is not None and (self._more or self._connection in ready):
            self._receive()

    def _idle_seconds(self, now: float) -> float:
        if self._more:
            return 0.0
        until = self._next_tick
        if self._connection is None and self._listeners:
            until = min(until, self._connect_at)
        return max(0.0, until - now)

    def _read_notes(self, act: Callable[[Callable[[], None]], None]) -> None:
        while True:
            try:
                action = self._notes.get_nowait()
            except Empty:
                return
            act(action)

    def _join(self, channel: bytes, listener: Listener) -> None:
        known = self._listeners.setdefault(channel, set())
        fresh = not known and channel not in self._heard
        known.add(listener)
        if channel in self._heard:
            self._tell(listener.joined)
        elif fresh and self._connection is not None:
            self._send("SUBSCRIBE", channel)

    def _leave(self, channel: bytes, listener: Listener) -> None:
        self._listeners.get(channel, set()).discard(listener)

    def _tick(self, now: float) -> None:
        deserted = [channel for channel, listeners in self._listeners.items() if not listeners]
        for channel in deserted:
            del self._listeners[channel]
        self._heard.difference_update(deserted)
        run_ids = {each.run_id for listeners in self._listeners.values() for each in listeners}
        self._on_tick([run_id for run_id in run_ids if run_id is not None])
        if self._connection is None:
            return
        if deserted:
            self._send("UNSUBSCRIBE", *deserted)
        if now - self._pinged_at >= KEEPALIVE:
            if self._owes_answer:
                raise OSError(f"no answer within {KEEPALIVE:g} s")
            self._send("PING")
            self._pinged_at, self._owes_answer = now, True

    # -- the connection --------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        pool = self._client.connection_pool
        options = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith("maint_")}
        # RESP2, where a subscribed connection carries nothing but messages; maintenance pushes exist in RESP3 only.
        options |= {"protocol": 2, "client_name": options.get("client_name") or "umbel-streams"}
        connection = pool.connection_class(**options)
        connection.connect()
        self._connection = connection
        # redis-py has no public way to wait for a connection together with something else.
        self._selector.register(connection._sock, selectors.EVENT_READ, connection)
        self._more, self._owes_answer, self._pinged_at = False, False, time.monotonic()
        channels = list(self._listeners)
        for start in range(0, len(channels), CHANNELS):
            self._send("SUBSCRIBE", *channels[start : start + CHANNELS])

    def _send(self, *command: bytes | str) -> None:
        self._connection.send_command(*command, check_health=False)

    def _receive(self) -> None:
        self._more = True
        for _ in range(BURST):
            if not self._connection.can_read(timeout=0):
                self._more = False
                return
            self._dispatch(self._connection.read_response())

    def _dispatch(self, response: Any) -> None:
        self._owes_answer = False
        if not isinstance(response, list):
            return  # the answer to a PING while no channel is subscribed
        kind, channel = response[0], response[1]
        if kind == b"message":
            for listener in self._listeners.get(channel, ()):
                self._tell(listener.heard, response[2])
        elif kind == b"subscribe" and channel in self._listeners:
            self._restored()
            self._heard.add(channel)
            for listener in self._listeners[channel]:
                self._tell(listener.joined)

    def _restored(self) -> None:
        self._pause = FIRST_PAUSE
        if self._is_out:
            self._is_out = False
            logger.info("live events from Redis at %s are back", self._where, extra={"action": "live_back"})

    def _lose(self, error: Exception) -> None:
        self._disconnect()
        # Many processes lose one Redis at the same instant; they should not come back at the same instant.
        self._connect_at = time.monotonic() + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if not self._is_out:
            self._is_out = True
            logger.warning(
                "live events from Redis at %s are interrupted (%s); nothing is lost, readers go on from the log",
                self._where,
                error,
                extra={"action": "live_lost"},
            )

    def _disconnect(self) -> None:
        self._heard.clear()
        self._more = False
        connection, self._connection = self._connection, None
        if connection is not None:
            for key in [key for key in self._selector.get_map().values() if key.data is connection]:
                self._selector.unregister(key.fileobj)
            connection.disconnect()

    @staticmethod
    def _tell(method: Callable[..., None], *args: Any) -> None:
        """One listener's fault must not silence the others."""
        try:
            method(*args)
        except Exception:
            logger.exception("a listener of live events failed", extra={"action": "listener_error"})
