"""Keeps the lock of an open edit alive, on a loop that user code does not block: a step that blocks its own event loop
or computes inside an edit keeps its lock."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from weakref import ref

from ..connection.portal import Portal
from ..model.errors import StoreUnavailable


class RenewedLock:
    """A lock that is renewed as long as this object is referred to, or until `end`, or until its loop is closed.

    A coroutine that is dropped without being closed therefore loses its lock instead of keeping it forever.
    """

    __slots__ = ("__weakref__", "_loop", "due_at", "ended", "token")

    def __init__(self, token: str, due_at: float, loop: asyncio.AbstractEventLoop | None) -> None:
        """Args:
        token: The lock's.
        due_at: When to renew it first, in `time.monotonic()`.
        loop: The event loop that its editor runs on, if any.
        """
        self.token, self.due_at, self._loop = token, due_at, loop
        self.ended = False

    @property
    def is_over(self) -> bool:
        """Whether nobody writes under this lock any more."""
        return self.ended or (self._loop is not None and self._loop.is_closed())

    def end(self) -> None:
        """Stop renewing. It only sets a flag, because the garbage collector may call it at any point."""
        self.ended = True


class LockRenewal:
    """Renews the lock of one writer, who has at most one at a time. Safe to use from any thread and loop."""

    def __init__(self, portal: Portal, renew: Callable[[str], Awaitable[bool]], lock_seconds: float) -> None:
        """Args:
        portal: Where the renewal runs.
        renew: Extends the lock with this token; returns False if there is no lock to extend.
        lock_seconds: A lock's life without renewal.
        """
        self._portal, self._renew, self._pause = portal, renew, lock_seconds / 4
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._current: ref[RenewedLock] | None = None
        self._is_running = False

    def begin(self, token: str) -> RenewedLock:
        """Renew this lock from now on, instead of the previous one, at most until the caller's event loop is closed."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        lock = RenewedLock(token, time.monotonic() + self._pause, loop)
        if self._pid != os.getpid():  # a forked child: the renewing coroutine is in its parent
            self._begin_anew()
        with self._mutex:
            self._current = ref(lock)
            if not self._is_running:
                self._is_running = True
                # In its own context: the caller's context would keep alive what the caller refers to.
                Context().run(self._portal.submit, self._run())
        return lock

    async def _run(self) -> None:
        """Renew until no lock is held when a renewal is due. Consecutive short edits thereby share one coroutine."""
        try:
            while (due_at := self._next_due()) is not None:
                await asyncio.sleep(due_at - time.monotonic())
                await self._renew_if_due()
        except BaseException:
            with self._mutex:
                self._is_running = False  # the next edit starts another coroutine
            raise

    def _next_due(self) -> float | None:
        with self._mutex:
            lock = self._held()
            if lock is None:
                self._is_running = False
                return None
            return lock.due_at

    async def _renew_if_due(self) -> None:
        lock = self._held()
        if lock is None or lock.due_at > time.monotonic():
            return
        lock.due_at = time.monotonic() + self._pause
        token = lock.token
        del lock  # during the request, only its editor keeps it alive
        try:
            keep = await self._renew(token)
        except StoreUnavailable:
            return  # the lock may outlive the outage; if not, its writer notices
        if not keep and (lock := self._held()) is not None and lock.token == token:
            lock.end()

    def _held(self) -> RenewedLock | None:
        lock = self._current() if self._current is not None else None
        return None if lock is None or lock.is_over else lock
