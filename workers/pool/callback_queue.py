"""Reports what happened in other threads to Celery, in the hub's thread."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .job import Job
from .loop import PoolLoop

logger = logging.getLogger("umbel.worker")

#: How long the ends of direct jobs may wait before the hub is woken. A wake-up costs more than handling many of them.
_LATER_SECONDS = 0.01

_Item = tuple[Job, Callable[..., Any] | None, tuple[Any, ...], bool]


class CallbackQueue:
    """Calls Celery's callbacks in the hub's thread, in batches, woken by one byte per batch.

    It is a reader of the hub and does not use `hub.call_soon`: a call that a timer or a ready item queues there would
    wait for the next poll, up to a second (kombu/asynchronous/hub.py:391). Without a hub, as with brokers that cannot
    be polled, the callbacks run in the thread that reports.
    """

    def __init__(self, finish: Callable[[Job], None], loop: PoolLoop, is_pressing: Callable[[], bool]) -> None:
        """Make it.

        Args:
            finish: Called with each job that is over, before Celery's callback.
            loop: Where coroutine tasks run.
            is_pressing: Whether something waits for jobs to end, so that the hub must be woken at once.
        """
        self._finish, self._loop, self._is_pressing = finish, loop, is_pressing
        self._items: deque[_Item] = deque()
        #: Whether a byte was sent to the hub, or will be after the loop's iteration, or after `_LATER_SECONDS`.
        self._is_woken = self._is_due = self._is_due_later = False
        self._hub: Any = None
        #: Held while Celery's callbacks run. The hub's thread may enter again, in a signal handler.
        self.running = threading.RLock()
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._wake.setblocking(False)

    def register(self, hub: Any) -> None:
        """Make this a reader of the hub; must be called again whenever the hub has dropped its readers."""
        self._hub = hub
        hub.add_reader(self._awake, self.receive)

    def ended(self, job: Job, callback: Callable[..., Any] | None, *args: Any) -> None:
        """A job is over. The callback, if any, is not called for one that was reported as timed out."""
        self._send((job, callback, args, True))

    def limit_reached(self, job: Job, *, is_soft: bool, seconds: float | None) -> None:
        """A job's time limit was reached."""
        self._send((job, job.timeout_callback, (is_soft, seconds), False))

    def wait(self, seconds: float) -> None:
        """Wait until something has happened, and report it to Celery."""
        # A signal handler may close it meanwhile.
        with selectors.DefaultSelector() as selector, contextlib.suppress(ValueError, OSError):
            selector.register(self._awake, selectors.EVENT_READ)
            selector.select(seconds)
        self.receive()

    def receive(self) -> None:
        """Report to Celery what has happened so far; what happens meanwhile is reported after the hub's other work."""
        with contextlib.suppress(OSError):
            self._awake.recv(4096)
        self.report()

    def report(self) -> None:
        """The same without a wake-up; called in the hub's thread before anything there reads which jobs are running."""
        with self.running:
            self._is_woken = False
            for _ in range(len(self._items)):
                try:
                    job, callback, args, is_over = self._items.popleft()
                except IndexError:  # a signal handler has taken the item
                    break
                if is_over:
                    # First: a signal handler that waits for running jobs must not wait for the callback it interrupted.
                    self._finish(job)
                    if job.timed_out:
                        continue
                if callback is None:
                    continue
                try:
                    callback(*args)
                except (SystemExit, KeyboardInterrupt, MemoryError):
                    raise
                except Exception as error:
                    logger.error(
                        "A callback at the end of %s failed: %r",
                        job.label,
                        error,
                        exc_info=True,
                        extra={"action": "pool_error"},
                    )
            if self._items:
                self._wake_up()

    def close(self) -> None:
        """Stop reporting."""
        if self._hub is not None:
            self._hub.remove(self._awake)
        self._awake.close()
        self._wake.close()

    def _send(self, item: _Item) -> None:
        self._items.append(item)
        if self._hub is None:
            self.receive()
        if threading.get_ident() != self._loop.thread_id:
            self._wake_up()
        elif item[0].is_direct and not self._is_pressing():
            if not self._is_due_later:
                self._is_due_later = True
                self._loop.loop.call_later(_LATER_SECONDS, self._later)
        elif not self._is_due:
            # After everything else in this iteration of the loop: a wake-up costs more than an outcome.
            self._is_due = True
            self._loop.loop.call_soon(self._end_of_iteration)

    def _end_of_iteration(self) -> None:
        self._is_due = False
        self._wake_up()

    def _later(self) -> None:
        self._is_due_later = False
        if self._items:
            self._wake_up()

    def _wake_up(self) -> None:
        if not self._is_woken:  # else the wake-up already sent will find this item, too
            self._is_woken = True
            with contextlib.suppress(OSError):  # if the socket is full, the hub wakes up anyway
                self._wake.send(b"\0")
