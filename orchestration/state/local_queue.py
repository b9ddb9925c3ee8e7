"""Who of this process goes next: a first-come queue for what only one may do at a time.

Many steps of one process may want the same lock in Redis. They queue here, so that Redis sees one contender per
process and not a thousand pollers. Nothing here talks to Redis, waits or knows an event loop: whoever joins brings a
function that wakes him, and does the waiting himself.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from ..store.keys import new_id


class Ticket:
    """A place in a line, held by the one who waits or whose turn it is, and by nobody else.

    Attributes:
        granted: It is this one's turn.
        left: It was given up.
    """

    __slots__ = ("__weakref__", "granted", "left", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.granted = False
        self.left = False


class FifoQueue:
    """A first-come queue for one thing.

    It refers to its turns weakly: one whose owner vanished (an abandoned event loop, a coroutine that was dropped)
    does not stop the others, provided they look again now and then (`advance`).

    Nothing here ever waits for a mutex, because a coroutine that is garbage-collected leaves its line from wherever
    the collector happens to run, be it in the middle of these methods. Whoever cannot pass on the turn because
    somebody else is at it leaves word, and that one looks once more.

    Attributes:
        moved_at: When a turn was last granted or seen to make progress; `time.monotonic()`.
        holder, holder_since: Who was last seen to hold the lock elsewhere, and since when; kept by the contenders.
    """

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        """Forget everybody."""
        self._busy = threading.Lock()
        self._look_again = False
        self._current: weakref.ref[Ticket] | None = None
        self._waiting: deque[weakref.ref[Ticket]] = deque()
        self.moved_at = time.monotonic()
        self.holder = ""
        self.holder_since = 0.0

    def join(self, wake: Callable[[], None]) -> Ticket:
        """Queue up. `wake` is called, from any thread, when `granted` has become True; that may be at once."""
        turn = Ticket(wake)
        self._waiting.append(weakref.ref(turn))
        self.advance()
        return turn

    def leave(self, turn: Ticket) -> None:
        """Give up one's turn or place. May be called twice."""
        turn.left = True
        self.advance()

    def advance(self) -> None:
        """Let the next one in if nobody is, be it because the one who was has vanished."""
        self._look_again = True
        while self._look_again and self._busy.acquire(blocking=False):
            try:
                self._look_again = False
                self._pass_on()
            finally:
                self._busy.release()

    def _pass_on(self) -> None:
        current = self._current() if self._current is not None else None
        while (current is None or current.left) and self._waiting:
            current = self._waiting.popleft()()
            if current is not None and not current.left:
                self._current = weakref.ref(current)
                self.moved_at = time.monotonic()
                current.granted = True
                try:
                    current.wake()
                except RuntimeError:  # its event loop is closed: nobody will come
                    current.left = True


_lines: weakref.WeakValueDictionary[tuple[str, str], FifoQueue] = weakref.WeakValueDictionary()
_lines_mutex = threading.Lock()
_process_id = new_id()


def line_for(url: str, key: str) -> FifoQueue:
    """The line of this process for one key of one Redis; it lives as long as somebody refers to it."""
    with _lines_mutex:
        line = _lines.get((url, key))
        if line is None:
            line = _lines[url, key] = FifoQueue()
        return line


def process_id() -> str:
    """An id of this process, another one in each forked child."""
    return _process_id


def _begin_anew() -> None:
    """A forked child has none of its parent's threads, so nobody would ever give up a turn or a mutex."""
    global _lines_mutex, _process_id
    for line in list(_lines.values()):
        line.empty()
    _lines_mutex = threading.Lock()
    _process_id = new_id()


os.register_at_fork(after_in_child=_begin_anew)
