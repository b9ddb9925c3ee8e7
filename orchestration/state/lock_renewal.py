"""Keeps the locks of this process's open edits alive, from a thread of its own: a step that blocks its event loop or
computes inside an edit loses nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from weakref import WeakSet

from ..model.errors import StoreUnavailable

#: An idle renewal thread ends after this many seconds; the next edit starts another.
_LINGER_SECONDS = 10.0


class RenewedLock:
    """A lock that is renewed for as long as somebody refers to this object, or until `end`.

    A coroutine that is dropped without being closed thereby loses its lock instead of keeping it for ever.
    """

    def __init__(self, renew: Callable[[], bool], seconds: float) -> None:
        """Args:
        renew: Prolongs the lock; False when there is nothing left to prolong.
        seconds: Its life without renewal.
        """
        self.renew = renew
        self.pause_seconds = seconds / 4
        self.due_at = time.monotonic() + self.pause_seconds
        self.ended = False
        _renewal.add(self)

    def end(self) -> None:
        """Renew no more. Only a flag, because this may be called by the garbage collector at any point."""
        self.ended = True


class _Renewal:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._locks: WeakSet[RenewedLock] = WeakSet()
        self._running = False
        self._looks_at = 0.0

    def add(self, lock: RenewedLock) -> None:
        with self._changed:
            self._locks.add(lock)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="umbel-state-locks", daemon=True).start()
            elif lock.due_at < self._looks_at:
                self._changed.notify()

    def _run(self) -> None:
        try:
            while self._wait():
                with self._changed:
                    due = [lock for lock in self._locks if not lock.ended and lock.due_at <= time.monotonic()]
                while due:  # popped, so that no lock is kept alive from here
                    self._renew(due.pop())
        except BaseException:
            with self._changed:
                self._running = False  # the next edit starts another thread
            raise

    def _wait(self) -> bool:
        """Until the next lock is due; False when there has been none for long."""
        with self._changed:
            next_due = self._next_due()
            if next_due is None:
                self._looks_at = time.monotonic() + _LINGER_SECONDS
                self._changed.wait(_LINGER_SECONDS)
                next_due = self._next_due()
                if next_due is None:
                    self._running = False
                    return False
            self._looks_at = next_due
            self._changed.wait(max(0.0, next_due - time.monotonic()))
            return True

    def _next_due(self) -> float | None:
        return min((lock.due_at for lock in self._locks if not lock.ended), default=None)

    def _renew(self, lock: RenewedLock) -> None:
        lock.due_at = time.monotonic() + lock.pause_seconds
        try:
            keep = lock.renew()
        except StoreUnavailable:
            return  # the lock may outlive the outage; if not, its writer is told so
        if not keep:
            lock.ended = True


_renewal = _Renewal()


def _begin_anew() -> None:
    """A forked child has no renewal thread, and the open edits are its parent's."""
    global _renewal
    _renewal = _Renewal()


os.register_at_fork(after_in_child=_begin_anew)
