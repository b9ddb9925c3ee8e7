"""From the one live connection to the readers on one event loop, which may be any loop.

Everything a reader knows is only touched on its own loop: a relay passes on what was heard, once for all readers there.
Not here: what readers do with it (`follower.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Any, TypeVar

from ..model.errors import WorkflowRuntimeError
from ..store.reads import StoreReads
from ..store.verbs import Store
from .pubsub import CLOSED, LiveChannels, Subscriber, tell

T = TypeVar("T")

#: Bytes of messages on the way to a loop that is busy or has stopped. Beyond it, its readers go back to the log.
INBOX_BYTES = 8 << 20
#: What a message costs beside its content.
MESSAGE_BYTES = 200
#: Reads of the log that one loop's readers have under way at the same time. Equal ones that wait are done once.
LOOKS = 16


class Listener:
    """Hears one channel, on its own event loop.

    Attributes:
        run_id: The run that is looked at every now and then.
    """

    run_id: str

    def joined(self) -> None:
        """From now on messages are heard; what was published before may have been missed."""

    def heard(self, message: bytes) -> None:
        """A message was published."""

    def checked(self, head: int, running: bool) -> None:
        """The last number the run had given a moment ago, and whether it goes on."""

    def closed(self) -> None:
        """Nothing will be heard any more."""


class Relay(Subscriber):
    """What all readers on one event loop share."""

    def __init__(self, live: LiveChannels) -> None:
        """For the running loop."""
        self._live = live
        self._loop = asyncio.get_running_loop()
        self._is_home = self._loop is live.loop
        self._listeners: dict[bytes, set[Listener]] = {}
        self._run_ids: dict[Listener, str] = {}
        self._heard: set[bytes] = set()
        self._is_closed = False
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...], int]] = deque()
        # Two counters with one writer each, the portal's loop and this one: they share no lock.
        self._bytes_in = self._bytes_out = 0
        self._is_called = self._has_dropped = False
        self._turns = asyncio.Semaphore(LOOKS)
        self._looks: dict[Hashable, asyncio.Task[Any]] = {}

    # -- for readers, on this loop ---------------------------------------------------------------------------------

    def join(self, channel: bytes, listener: Listener) -> None:
        """Let a listener hear a channel; its `joined` is called when it does, now and after every outage.

        Raises:
            WorkflowRuntimeError: Closed.
        """
        if self._is_closed:
            raise WorkflowRuntimeError(CLOSED)
        if channel not in self._listeners:
            self._live.join(channel, self)
            self._listeners[channel] = set()
        self._listeners[channel].add(listener)
        self._run_ids[listener] = listener.run_id
        if channel in self._heard:
            listener.joined()

    def leave(self, channel: bytes, listener: Listener) -> None:
        """The contrary. May be called from any thread, also from a finalizer."""
        if os.getpid() == self._live.pid:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody hears anything there any more
                self._loop.call_soon_threadsafe(self._leave, channel, listener)

    def _leave(self, channel: bytes, listener: Listener) -> None:
        listeners = self._listeners.get(channel, set())
        listeners.discard(listener)
        self._run_ids.pop(listener, None)
        if channel in self._listeners and not listeners:
            del self._listeners[channel]
            self._heard.discard(channel)
            self._live.leave(channel, self)

    async def look(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Read something from Redis, together with all who ask for the same before the reading begins.

        A thousand readers that go back to the log at one place so cost one read. Whoever asks later gets a read of its
        own: one that is under way may miss what was published since.

        Args:
            key: Reads of equal keys give equal answers.
            read: Does it.

        Raises:
            Exception: What `read` raised.
        """
        task = self._looks.get(key)
        if task is None:
            task = self._looks[key] = self._loop.create_task(self._begin(key, read))
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

    # -- from the portal's loop ------------------------------------------------------------------------------------

    def joined(self, channel: bytes) -> None:
        self._pass_on(self._joined, channel)

    def heard(self, channel: bytes, message: bytes) -> None:
        if self._is_home:
            self._take(channel, message)
            return
        size = len(message) + MESSAGE_BYTES
        if self._inbox and self._bytes_in - self._bytes_out + size > INBOX_BYTES:
            self._has_dropped = True
            self._call()
            return
        self._pass_on(self._take, channel, message, size=size)

    def checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        self._pass_on(self._checked, heads)

    def closed(self) -> None:
        self._pass_on(self._closed)

    def run_ids(self) -> Collection[str]:
        return set(self._run_ids.copy().values())  # copying is one step, whatever the relay's loop does meanwhile

    def is_dead(self) -> bool:
        return self._loop.is_closed()

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
                self._loop.call_soon_threadsafe(self._empty)

    # -- on this loop ----------------------------------------------------------------------------------------------

    def _empty(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
        while self._inbox:
            act, args, size = self._inbox.popleft()
            self._bytes_out += size
            act(*args)
        if self._has_dropped:
            self._has_dropped = False
            for channel in list(self._listeners):
                self._joined(channel)

    def _joined(self, channel: bytes) -> None:
        if channel in self._listeners:
            self._heard.add(channel)
            for listener in self._listeners[channel]:
                tell(listener.joined)

    def _take(self, channel: bytes, message: bytes) -> None:
        for listener in self._listeners.get(channel, ()):
            tell(listener.heard, message)

    def _checked(self, heads: Mapping[str, tuple[int, bool]]) -> None:
        for listener, run_id in self._run_ids.items():
            if run_id in heads:
                tell(listener.checked, *heads[run_id])

    def _closed(self) -> None:
        self._is_closed = True
        for listener in self._run_ids:
            tell(listener.closed)


class Relays:
    """What all readers of one process share: the live connection, and a relay for each event loop with readers."""

    def __init__(self, store: Store, poll_seconds: float) -> None:
        """Starts and connects nothing. The arguments are those of `StreamHub`."""
        self.store = store
        self.poll_seconds = poll_seconds
        #: Asks once only: whether to ask again is for the one who follows a run.
        self.impatient = StoreReads(store.connection, store.settings, patience_seconds=0.0)
        self.live = LiveChannels(store, poll_seconds)
        self._by_loop: dict[asyncio.AbstractEventLoop, Relay] = {}

    def here(self) -> Relay:
        """The relay of the running loop."""
        loop = asyncio.get_running_loop()
        known = self._by_loop.get(loop)
        if known is None:
            for other in list(self._by_loop):
                if other.is_closed():
                    self._by_loop.pop(other, None)
            known = self._by_loop[loop] = Relay(self.live)
        return known


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Whoever asked may have been cancelled meanwhile; that is no reason for a warning about the outcome."""
    if not task.cancelled():
        task.exception()
