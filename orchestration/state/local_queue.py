"""Lets the writers of one process take turns, first come, first served.

Many steps of one process may want the same lock in Redis. They queue here, so that Redis sees one contender per process
instead of a thousand that poll. The writers are coroutines on any number of event loops.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..connection.keys import new_id

#: How often a waiting writer checks whether the one before it has vanished.
LOOK_SECONDS = 1.0


class Ticket:
    """A place in the queue. Only its owner holds a strong reference to it.

    Attributes:
        loop: The event loop that its owner runs on. Once it is closed, the owner cannot give the ticket back, and may
            be kept alive by a reference cycle.
        granted: Its owner has the turn.
        left: It was given back.
    """

    __slots__ = ("__weakref__", "granted", "left", "loop", "waits", "wake")

    def __init__(self, wake: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.wake, self.loop = wake, loop
        self.waits = self.granted = self.left = False

    @property
    def is_over(self) -> bool:
        """Whether the next one has the turn."""
        return self.left or (self.loop is not None and self.loop.is_closed())


class FifoQueue:
    """A FIFO queue for something that only one may have at a time. Safe to use from any thread and loop.

    It refers to its tickets weakly: an owner that vanished (an abandoned event loop, a dropped coroutine) does not
    block the others, provided that they call `advance` now and then.

    Nothing here waits for a mutex: a garbage-collected coroutine gives back its ticket wherever the collector happens
    to run, even in the middle of these methods. A thread that cannot pass on the turn because another thread is doing
    so sets a flag, and the other thread checks again.

    Attributes:
        moved_at: When a turn was last granted or seen to make progress; `time.monotonic()`.
        holder, holder_since: The edit last seen to hold the lock in another process, and since when; set by the
            writers.
    """

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        """Forget all tickets."""
        self._busy = threading.Lock()
        self._look_again = False
        self._current: weakref.ref[Ticket] | None = None
        self._waiting: deque[weakref.ref[Ticket]] = deque()
        self.moved_at = time.monotonic()
        self.holder = ""
        self.holder_since = 0.0

    async def take_turn(self, patience_seconds: float) -> Ticket:
        """Queue up and wait for the caller's turn, which lasts until `leave`.

        Raises:
            TimeoutError: The turns before it made no progress for `patience_seconds`.
        """
        loop, granted = asyncio.get_running_loop(), asyncio.Event()
        ticket = self.join(lambda: loop.call_soon_threadsafe(granted.set), loop)
        try:
            while not ticket.granted:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(LOOK_SECONDS, patience_seconds)):
                        await granted.wait()
                self.advance()
                if not ticket.granted and time.monotonic() - self.moved_at > patience_seconds:
                    raise TimeoutError
        except BaseException:
            self.leave(ticket)
            raise
        return ticket

    def join(self, wake: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None) -> Ticket:
        """Queue up. The turn may be granted at once; otherwise `wake` is called, from any thread, when it is."""
        ticket = Ticket(wake, loop)
        self._waiting.append(weakref.ref(ticket))
        self.advance()
        ticket.waits = True  # set before the caller reads `granted`, which is set before this is read
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give back a ticket. May be called twice."""
        ticket.left = True
        self.advance()

    def advance(self) -> None:
        """Grant the next turn if nobody has it, including when its owner has vanished."""
        self._look_again = True
        while self._look_again and self._busy.acquire(blocking=False):
            try:
                self._look_again = False
                self._pass_on()
            finally:
                self._busy.release()

    def _pass_on(self) -> None:
        current = self._current() if self._current is not None else None
        while (current is None or current.is_over) and self._waiting:
            current = self._waiting.popleft()()
            if current is not None and not current.is_over:
                self._current = weakref.ref(current)
                self.moved_at = time.monotonic()
                current.granted = True
                try:
                    if current.waits:
                        current.wake()
                except RuntimeError:  # its event loop is closed: the owner will never take the turn
                    current.left = True


_queues: weakref.WeakValueDictionary[tuple[str, str], FifoQueue] = weakref.WeakValueDictionary()
_queues_mutex = threading.Lock()
_process_id = new_id()


def queue_for(url: str, key: str) -> FifoQueue:
    """The queue of this process for one key of one Redis; it exists as long as it is referred to."""
    with _queues_mutex:
        queue = _queues.get((url, key))
        if queue is None:
            queue = _queues[url, key] = FifoQueue()
        return queue


def process_id() -> str:
    """An id of this process; a forked child has another."""
    return _process_id


def _begin_anew() -> None:
    """Reset in a forked child: it has none of its parent's threads, so turns and mutexes would never be given back."""
    global _queues_mutex, _process_id
    for queue in list(_queues.values()):
        queue.empty()
    _queues_mutex = threading.Lock()
    _process_id = new_id()


os.register_at_fork(after_in_child=_begin_anew)
