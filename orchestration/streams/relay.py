"""From the one live connection to the readers on one event loop, which may be any loop.

What a reader knows is only touched on its own loop: a relay passes on what was heard, once for all readers there.
Not here: what readers do with it (`follower.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("umbel.streams")

#: Bytes of messages on the way to a loop that is busy or has stopped. Beyond it, its readers go back to the log.
INBOX_BYTES = 8 << 20
#: What a message costs beside its content.
MESSAGE_BYTES = 200
#: Reads of the log that one loop's readers have under way at the same time. Equal ones that wait are done once.
LOOKS = 16


class Listener:
    """Hears channels. All methods are called on its relay's loop: they are quick and never block.

    Attributes:
        run_id: The run to be looked at every now and then on the listener's behalf, if any.
    """

    run_id: str | None = None

    def joined(self) -> None:
        """From now on messages are heard; what was published before may have been missed."""

    def heard(self, message: bytes) -> None:
        """A message was published."""

    def checked(self, head: int, running: bool) -> None:
        """The last number the run had given a moment ago, and whether it goes on."""

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
        self._run_ids: dict[Listener, str | None] = {}
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
        self._run_ids[listener] = listener.run_id
        if channel in self._heard:
            listener.joined()
        is_first = channel not in self._listeners
        self._listeners.setdefault(channel, set()).add(listener)
        return is_first

    def remove(self, channel: bytes, listener: Listener) -> bool:
        """The contrary; whether it was the last one for the channel."""
        self._run_ids.pop(listener, None)
        listeners = self._listeners.get(channel, set())
        listeners.discard(listener)
        if listeners or channel not in self._listeners:
            return False
        del self._listeners[channel]
        self._heard.discard(channel)
        return True

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
        if task is None:
            task = self._looks[key] = self.loop.create_task(self._begin(key, read))
            task.add_done_callback(_retrieve)
        answer: T = await asyncio.shield(task)
        return answer

    async def _begin(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        try:
            await self._turns.acquire()
        finally:
            del self._looks[key]
        try:
            return await read()
        finally:
            self._turns.release()

    # -- on the loop of the live connection ------------------------------------------------------------------------

    def tell_joined(self, channel: bytes) -> None:
        """From now on messages of the channel are heard."""
        self._pass_on(self._joined, channel)

    def tell_heard(self, channel: bytes, message: bytes) -> None:
        """A message was published."""
        size = len(message) + MESSAGE_BYTES
        if self._inbox and self._bytes_in - self._bytes_out + size > INBOX_BYTES:
            self._has_dropped = True
            self._call()
        else:
            self._pass_on(self._take, channel, message, size=size)

    def tell_checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        """How runs stood a moment ago; see `read_heads`."""
        self._pass_on(self._checked, heads)

    def tell_closed(self) -> None:
        """Nothing will be heard any more."""
        self._pass_on(self._closed)

    def run_ids(self) -> set[str]:
        """The runs that are followed."""
        # Copying is one step, whatever the relay's loop does meanwhile.
        return {run_id for run_id in self._run_ids.copy().values() if run_id is not None}

    def _pass_on(self, act: Callable[..., None], *args: Any, size: int = 0) -> None:
        if self._is_home:
            act(*args)
            return
        self._bytes_in += size
        self._inbox.append((act, args, size))
        self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: the relay is dropped soon
                self.loop.call_soon_threadsafe(self._empty)

    # -- on this loop again ----------------------------------------------------------------------------------------

    def _empty(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
        while self._inbox:
            act, args, size = self._inbox.popleft()
            self._bytes_out += size
            act(*args)
        if self._has_dropped:
            self._has_dropped = False
            for channel in self._listeners:
                self._joined(channel)

    def _joined(self, channel: bytes) -> None:
        if channel in self._listeners:
            self._heard.add(channel)
            for listener in self._listeners[channel]:
                _tell(listener.joined)

    def _take(self, channel: bytes, message: bytes) -> None:
        for listener in self._listeners.get(channel, ()):
            _tell(listener.heard, message)

    def _checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        for listener, run_id in self._run_ids.items():
            if run_id is not None and run_id in heads:
                _tell(listener.checked, *heads[run_id])

    def _closed(self) -> None:
        self.is_closed = True
        for listener in self._run_ids:
            _tell(listener.closed)


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
