"""Ends of runs, received by one mailbox per process and shard, however many callers wait.

An end costs one dict lookup by run id. Waiting for a run that this process has started needs no request to Redis: the
mailbox was open before the run began, so its end cannot be missed. If the end is uncertain (the connection was
interrupted, the event is too large for a message, the run may be revived or was rewound), the answer is *unsure*, and
the caller asks Redis (`UntilEnded` in `follower.py`). All runs with waiting callers are also checked together every few
seconds, because a message may be lost without notice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakValueDictionary

import msgpack
from redis.exceptions import RedisError

from ..model.envelope import Envelope
from ..model.errors import UmbelError, WorkflowRuntimeError
from ..store.replies import RunEnd
from .log import read_heads
from .pubsub import CLOSED, LiveChannels
from .relay import Listener, Relay

#: Seconds without a waiting caller after which a mailbox is closed: an open one receives every end in its shard.
LINGER_SECONDS = 60.0


class Waiter(Listener):
    """Waits for a run's end. Its methods are called on the loop of `relay`; if None, on that of the live connection."""

    relay: Relay | None = None

    def ended(self, end: RunEnd) -> None:
        """The run has ended."""

    def unsure(self) -> None:
        """The run may have ended: Redis must be asked."""


class StartedRun:
    """What this process knows about the end of a run that it started. It lives as long as the handler that holds it.

    Attributes:
        run_id: The run.
        mailbox: Where its end arrives.
        is_sure: Whether the mailbox has received everything since before the run began, and no end.
        end: The end, if it is small and final. A completed run can only be rewound, which its mailbox receives too.
    """

    __slots__ = ("__weakref__", "end", "is_sure", "mailbox", "run_id")

    def __init__(self, run_id: str, mailbox: Mailbox) -> None:
        self.run_id, self.mailbox = run_id, mailbox
        self.is_sure = False
        self.end: RunEnd | None = None


class Mailboxes:
    """The mailboxes of a process, created when first needed."""

    def __init__(self, live: LiveChannels) -> None:
        """For the messages that `live` receives."""
        self._live = live
        self._by_channel: dict[str, Mailbox] = {}

    def of(self, run_id: str) -> Mailbox:
        """The mailbox where the run's end arrives."""
        store = self._live.store
        channel = store.keys.channel(store.locate(run_id)["ended"])
        known = self._by_channel.get(channel)
        return known or self._by_channel.setdefault(channel, Mailbox(self._live, channel.encode()))


class Mailbox(Listener):
    """All ends of one shard. The first waiting caller opens it; it is closed a while after the last one has left."""

    def __init__(self, live: LiveChannels, channel: bytes) -> None:
        """Made by `Mailboxes.of`."""
        self._live, self._channel = live, channel
        # Reentrant: at any allocation, garbage collection may finalize a waiting coroutine, which calls `remove`.
        self._lock = threading.RLock()
        self._waiting: dict[bytes, dict[Waiter, None]] = {}
        self._started: WeakValueDictionary[bytes, StartedRun] = WeakValueDictionary()
        self._rewound: set[bytes] = set()
        self._is_heard = self._was_closed = False
        self._waited_at = 0.0
        # The rest is only used on the loop of the live connection.
        self._is_open = False
        self._checks: set[asyncio.Task[None]] = set()

    # -- for callers, on any thread --------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether messages that are published now are received here."""
        return self._is_heard and self._live.is_heard(self._channel) and self._live.pid == os.getpid()

    def expect(self, run_id: str) -> StartedRun | None:
        """Call this before a run is started. None if its end may not be received."""
        if not self.is_live:
            return None
        key, started = run_id.encode(), StartedRun(run_id, self)
        with self._lock:
            former = self._started.get(key)
            if former is not None:  # a start with an id in use: the former entry gets no end
                former.is_sure, former.end = False, None
            self._started[key] = started
            # Only now: an interruption from here on ends with `joined`, which resets what is registered.
            started.is_sure = self.is_live
        return started

    async def arrival(self, started: StartedRun) -> RunEnd | None:
        """Await the end of a run that was expected; None if Redis must be asked."""
        if started.end is not None or not (started.is_sure and self.is_live):
            return started.end
        waiter = _Awaiting(self._live.here())
        try:
            self.add(started.run_id, waiter)
            # If the end came before the waiter was added, it was recorded in `started` before that.
            return await waiter.future if started.is_sure else started.end
        finally:
            self.remove(started.run_id, waiter)

    def blocking_arrival(self, started: StartedRun, timeout: float | None) -> RunEnd | None:
        """`arrival`, blocking; None also after `timeout` seconds."""
        if started.end is not None or not (started.is_sure and self.is_live):
            return started.end
        waiter = _Blocked()
        try:
            self.add(started.run_id, waiter)
            return waiter.queue.get(timeout=timeout) if started.is_sure else started.end
        except Empty:
            return None
        finally:
            self.remove(started.run_id, waiter)

    def add(self, run_id: str, waiter: Waiter) -> None:
        """Report a run's end to a waiter, from when it is `joined`; see `is_live`.

        Raises:
            WorkflowRuntimeError: Closed.
        """
        if self._was_closed:
            raise WorkflowRuntimeError(CLOSED)
        key = run_id.encode()
        with self._lock:
            self._waited_at = time.monotonic()
            waiters: dict[Waiter, None] | None = None
            while waiters is None or self._waiting.get(key) is not waiters:  # `remove` may run in between, see `_lock`
                waiters = self._waiting.setdefault(key, {})
                waiters[waiter] = None
        if not self._is_heard:
            self._live.soon(self._open)

    def remove(self, run_id: str, waiter: Waiter) -> None:
        """The inverse of `add`. May be called from a finalizer."""
        if self._live.pid != os.getpid():
            return
        key = run_id.encode()
        with self._lock:
            waiters = self._waiting.get(key, {})
            waiters.pop(waiter, None)
            if not waiters:
                self._waiting.pop(key, None)

    @contextmanager
    def rewinding(self, run_id: str) -> Iterator[None]:
        """While this process rewinds a run: from then on, nothing here returns its former end.

        Until the message about the rewind has come, a message about an end may still be about the former one; callers
        that wait then ask Redis.
        """
        key = run_id.encode()
        with self._lock:
            self._rewound.add(key)
            started = self._started.get(key)
            if started is not None:
                started.is_sure, started.end = False, None
        is_due = False
        try:
            yield
            is_due = self.is_live
        finally:
            if not is_due:  # there will be no message
                self._rewound.discard(key)

    def waiters_of(self, run_id: str) -> list[Waiter]:
        """The waiters for a run's end."""
        with self._lock:
            return list(self._waiting.get(run_id.encode(), ()))

    def count_expected(self) -> int:
        """How many runs are expected to end, or have ended and still have a handler that may ask for the end."""
        return len(self._started)

    # -- on the loop of the live connection ------------------------------------------------------------------------

    def _open(self) -> None:
        if self._is_open:
            return
        self._is_open = True
        try:
            self._live.join(self._live.here(), self._channel, self)
        except WorkflowRuntimeError:
            self.closed()
            return
        self._live.loop.call_later(LINGER_SECONDS, self._close_if_unused)

    def _close_if_unused(self) -> None:
        with self._lock:
            left = self._waited_at + LINGER_SECONDS - time.monotonic()
            if not self._waiting and left <= 0:
                self._is_heard = self._is_open = False
                self._be_unsure()
        if self._is_open:
            self._live.loop.call_later(max(left, LINGER_SECONDS / 10), self._close_if_unused)
        else:
            self._live.leave(self._live.here(), self._channel, self)

    def _be_unsure(self) -> None:
        for started in list(self._started.values()):
            started.is_sure, started.end = False, None

    def joined(self) -> None:
        with self._lock:
            self._be_unsure()
            was_heard, self._is_heard = self._is_heard, True
            waiting = self._all_waiting()
        for waiter in waiting:
            self._tell(waiter, waiter.joined)
        if was_heard and waiting:  # there was an interruption
            check = asyncio.ensure_future(self._check())
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    def heard(self, message: bytes) -> None:
        key = message[: message.index(b"\0")]
        started = self._started.get(key)
        if started is None and key not in self._waiting and key not in self._rewound:
            return
        status, event = msgpack.unpackb(message[len(key) + 1 :], raw=True)
        end = RunEnd(status.decode(), Envelope.from_bytes(event)) if event else None
        with self._lock:
            if key in self._rewound:
                end = None
            if status == b"running":
                self._rewound.discard(key)
            if started is not None:
                started.is_sure = False
                started.end = end if status == b"completed" else None
            waiters = list(self._waiting.get(key, ()))
        for waiter in waiters:
            if end is None:
                self._tell(waiter, waiter.unsure)
            else:
                self._tell(waiter, waiter.ended, end)

    def followed(self) -> Iterable[str]:
        with self._lock:
            return [key.decode() for key in self._waiting]

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        with self._lock:
            suspects = [key for key in self._waiting if not heads.get(key.decode(), (0, True))[1]]
            waiters = [waiter for key in suspects for waiter in self._waiting[key]]
        for waiter in waiters:
            self._tell(waiter, waiter.unsure)

    def closed(self) -> None:
        self._was_closed = True
        with self._lock:
            self._be_unsure()
            waiting = self._all_waiting()
        for waiter in waiting:
            self._tell(waiter, waiter.closed)

    async def _check(self) -> None:
        """Check all runs with waiting callers, together."""
        try:
            heads = await read_heads(self._live.store, list(self.followed()))
        except (UmbelError, RedisError):
            for waiter in self._all_waiting():  # each waiter asks until Redis answers
                self._tell(waiter, waiter.unsure)
        else:
            self.checked(heads)

    def _all_waiting(self) -> list[Waiter]:
        with self._lock:
            return [waiter for waiters in self._waiting.values() for waiter in waiters]

    @staticmethod
    def _tell(waiter: Waiter, act: Any, *args: Any) -> None:
        if waiter.relay is None:
            act(*args)
        else:
            waiter.relay.tell(act, *args)


class _Awaiting(Waiter):
    """A coroutine that waits."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.future: asyncio.Future[RunEnd | None] = relay.loop.create_future()

    def ended(self, end: RunEnd) -> None:
        self._settle(end)

    def unsure(self) -> None:
        self._settle(None)

    def closed(self) -> None:
        self._settle(None)

    def _settle(self, end: RunEnd | None) -> None:
        if not self.future.done():
            self.future.set_result(end)


class _Blocked(Waiter):
    """A thread that waits."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[RunEnd | None] = SimpleQueue()

    def ended(self, end: RunEnd) -> None:
        self.queue.put(end)

    def unsure(self) -> None:
        self.queue.put(None)

    def closed(self) -> None:
        self.queue.put(None)
