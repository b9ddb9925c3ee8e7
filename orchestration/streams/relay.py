"""From the one live connection to the readers on one event loop, which may be any loop.

What a reader knows is only touched on its own loop: a relay passes on what was heard, once for all readers there.
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

#: Bytes of messages on the way to a loop that is busy or has stopped. Beyond it, its readers go back to the log.
INBOX_BYTES = 8 << 20
#: Reads of the log that one loop's readers have under way at the same time. Equal ones that wait are done once.
LOOKS = 16


class Listener:
    """Hears channels. All methods but `followed` are called on its relay's loop: they are quick and never block."""

    def joined(self) -> None:
        """From now on messages are heard; what was published before may have been missed."""

    def heard(self, message: bytes) -> None:
        """A message was published."""

    def followed(self) -> Iterable[str]:
        """The runs to be looked at every now and then for the listener. Called on the loop of the live connection."""
        return ()

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """How runs stood a moment ago, among them those that are followed; see `read_heads`."""

    def closed(self) -> None:
        """Nothing will be heard any more."""


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
        # Two counters with one writer each, the loop of the live connection and this one: they share no lock.
        self._bytes_in = self._bytes_out = 0
        self._is_called = self._has_dropped = False
        self._turns = asyncio.Semaphore(LOOKS)
        self._looks: dict[Hashable, asyncio.Task[Any]] = {}

    # -- on this loop ----------------------------------------------------------------------------------------------

    def add(self, channel: bytes, listener: Listener) -> bool:
        """Pass on a channel to a listener; whether it is the first one for the channel."""
        is_first = channel not in self._listeners
        if channel in self._heard:
            listener.joined()
        self._listeners.setdefault(channel, set()).add(listener)
        self._all.add(listener)
        return is_first

    def remove(self, channel: bytes, listener: Listener) -> None:
        """The contrary. The live connection notices when it looks around that nobody hears a channel any more."""
        self._all.discard(listener)
        listeners = self._listeners.get(channel, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(channel, None)
            self._heard.discard(channel)

    async def look(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Read something from Redis, together with all who ask for the same before the reading begins.

        A thousand readers that go back to the log at one place thus cost one read. A later caller gets a read of its
        own: one that is under way may miss what was published since.

        Args:
            key: Reads of equal keys give equal answers.
            read: Does it.

        Raises:
            Exception: What `read` raised.
        """
        task = self._looks.get(key)
        if task is None or task.done():  # done: cancelled before it began, with everything on this loop
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
        """From now on messages of the channel are heard."""
        if channel in self._listeners:
            self._heard.add(channel)
            for listener in self._listeners[channel]:
                _tell(listener.joined)

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message was published."""
        for listener in self._listeners.get(channel, ()):
            _tell(listener.heard, message)

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """How runs stood a moment ago; see `read_heads`."""
        for listener in self._all:
            _tell(listener.checked, heads)

    def closed(self) -> None:
        """Nothing will be heard any more."""
        self.is_closed = True
        for listener in self._all:
            _tell(listener.closed)

    def _empty(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
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
        """Have one of this relay's methods called on its loop.

        Args:
            act: `joined`, `heard`, `checked` or `closed`, or one of a listener's that has them called.
            args: Its arguments.
            size: Bytes of a message, which is dropped if there are too many; the readers go back to the log then.
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

    # Looking something up and copying are one step, whatever the relay's loop does meanwhile.

    def hears(self, channel: bytes) -> bool:
        """Whether somebody hears the channel."""
        return channel in self._listeners

    def channels(self) -> set[bytes]:
        """The channels that somebody hears."""
        return set(self._listeners.copy())

    def run_ids(self) -> set[str]:
        """The runs that are followed."""
        return {run_id for listener in self._all.copy() for run_id in listener.followed()}


def _tell(method: Callable[..., None], *args: Any) -> None:
    """One listener's fault must not silence the others."""
    try:
        method(*args)
    except Exception:
        logger.exception("a listener of live events failed", extra={"action": "listener_error"})


def _retrieve(task: asyncio.Task[Any]) -> None:
    """All who asked may have been cancelled meanwhile; that is no reason for a warning about the outcome."""
    if not task.cancelled():
        task.exception()
