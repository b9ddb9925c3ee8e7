"""From the one live connection to the readers on one event loop, which may be any loop.

A reader's state is only accessed on its own loop: a relay passes each message on once, for all readers there.
Not here: what readers do with it (`follower.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("umbel.streams")

#: Bytes of messages in transit to a loop that is busy or has stopped. Beyond this, its readers go back to the log.
INBOX_BYTES = 8 << 20
#: Concurrent reads of the log by one loop's readers. Equal ones that wait are done once.
LOOKS = 16


class Listener:
    """Receives messages of channels. All methods but `followed` are called on its relay's loop: they must not block."""

    def joined(self) -> None:
        """From now on messages are received; earlier ones may have been missed."""

    def heard(self, message: bytes) -> None:
        """A message was published."""

    def followed(self) -> Iterable[str]:
        """The runs to check periodically for the listener. Called on the loop of the live connection."""
        return ()

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """The state of runs a moment ago, among them those that are followed; see `read_heads`."""

    def closed(self) -> None:
        """No more messages will be received."""


class Relay:
    """What all readers on one event loop share."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        """For the running loop; `home` is that of the live connection."""
        self.loop = asyncio.get_running_loop()
        self.is_closed = False
        self._is_home = self.loop is home
        self._listeners: dict[bytes, set[Listener]] = {}
        self._all: set[Listener] = set()
        self._heard: set[bytes] = set()
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...], int]] = deque()
        # Two counters with one writer each, the loop of the live connection and this one, so they need no lock.
        self._bytes_in = self._bytes_out = 0
        self._is_called = self._has_dropped = False
        self._turns = asyncio.Semaphore(LOOKS)
        self._looks: dict[Hashable, asyncio.Task[Any]] = {}

    # -- on this loop ----------------------------------------------------------------------------------------------

    def add(self, channel: bytes, listener: Listener) -> bool:
        """Pass on a channel to a listener; returns whether it is the first one for the channel."""
        is_first = channel not in self._listeners
        if channel in self._heard:
            listener.joined()
        self._listeners.setdefault(channel, set()).add(listener)
        self._all.add(listener)
        return is_first

    def remove(self, channel: bytes, listener: Listener) -> None:
        """The inverse of `add`. The live connection drops a channel without listeners with its next poll."""
        self._all.discard(listener)
        listeners = self._listeners.get(channel, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(channel, None)
            self._heard.discard(channel)

    async def look(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Read something from Redis, shared with all callers that ask for the same before the read begins.

        A thousand readers that go back to the log at one place thus cost one read. A later caller gets a new read: one
        in progress may miss what was published since.

        Args:
            key: Reads with equal keys return equal answers.
            read: Performs the read.

        Raises:
            Exception: What `read` raised.
        """
        task = self._looks.get(key)
        if task is None or task.done():  # done: cancelled before it began, with all tasks of this loop
            task = self._looks[key] = self.loop.create_task(self._begin(key, read))
            task.add_done_callback(_retrieve)
        answer: T = await asyncio.shield(task)
        return answer

    async def _begin(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        try:
            await self._turns.acquire()
        finally:
            self._looks.pop(key, None)
        try:
            return await read()
        finally:
            self._turns.release()

    def joined(self, channel: bytes) -> None:
        """From now on messages of the channel are received."""
        if channel in self._listeners:
            self._heard.add(channel)
            for listener in self._listeners[channel]:
                _tell(listener.joined)

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message was published."""
        for listener in self._listeners.get(channel, ()):
            _tell(listener.heard, message)

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """The state of runs a moment ago; see `read_heads`."""
        for listener in self._all:
            _tell(listener.checked, heads)

    def closed(self) -> None:
        """No more messages will be received."""
        self.is_closed = True
        for listener in self._all:
            _tell(listener.closed)

    def _empty(self) -> None:
        self._is_called = False  # first: a message from now on schedules another call
        while self._inbox:
            act, args, size = self._inbox.popleft()
            self._bytes_out += size
            act(*args)
        if self._has_dropped:
            self._has_dropped = False
            for channel in self._listeners:
                self.joined(channel)

    # -- on the loop of the live connection ------------------------------------------------------------------------

    def tell(self, act: Callable[..., None], *args: Any, size: int = 0) -> None:
        """Call one of this relay's methods on its loop.

        Args:
            act: `joined`, `heard`, `checked` or `closed`, or a method of a listener that uses this relay.
            args: Its arguments.
            size: Bytes of a message. If too many are in transit, it is dropped, and the readers go back to the log.
        """
        if self._is_home:
            act(*args)
            return
        if size and self._inbox and self._bytes_in - self._bytes_out + size > INBOX_BYTES:
            self._has_dropped = True
        else:
            self._bytes_in += size
            self._inbox.append((act, args, size))
        if not self._is_called:
            self._is_called = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: the relay is dropped soon
                self.loop.call_soon_threadsafe(self._empty)

    # The lookup and the copies below are atomic, whatever the relay's loop does meanwhile.

    def hears(self, channel: bytes) -> bool:
        """Whether the channel has a listener."""
        return channel in self._listeners

    def channels(self) -> set[bytes]:
        """The channels that have a listener."""
        return set(self._listeners.copy())

    def run_ids(self) -> set[str]:
        """The runs that are followed."""
        return {run_id for listener in self._all.copy() for run_id in listener.followed()}


def _tell(method: Callable[..., None], *args: Any) -> None:
    """Call a listener's method and log its exception, which must not affect other listeners."""
    try:
        method(*args)
    except Exception:
        logger.exception("a listener of live events failed", extra={"action": "listener_error"})


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception: if all its callers were cancelled, asyncio would warn that it never was."""
    if not task.cancelled():
        task.exception()
