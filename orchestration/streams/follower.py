"""Following one run: read from Redis if it may have news, otherwise wait to be woken.

A follower is used on one event loop only, its caller's or the portal's. Not here: what is read (`reader.py`), and how
messages arrive (`relay.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Awaitable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from ..connection.redis_client import unavailable
from ..model.errors import StoreUnavailable, WorkflowRuntimeError
from ..store.reads import StoreReads
from ..store.replies import RunEnd, RunRecord
from .ends import Mailbox, Waiter
from .pubsub import CLOSED, LiveChannels
from .relay import Listener, Relay

T = TypeVar("T")

#: Longest time in seconds until Redis is asked again after it did not answer; a reconnection triggers it at once.
RETRY = 1.0


class Follower(Listener, Generic[T]):
    """One caller that follows one run.

    `is_stale` says that Redis may have news. It is cleared *before* a look, so that a change during the look causes
    another one. `is_over` says that nothing more will be found.
    """

    def __init__(self, live: LiveChannels, run_id: str, timeout: float | None) -> None:
        """Args:
        live: The live connection, which the process shares.
        run_id: The run.
        timeout: Longest time in seconds without anything to return.
        """
        self.live = live
        self.run_id = run_id
        self.is_stale = True
        self.is_over = False
        self.look_at = 0.0
        self.timeout = timeout
        self._woken = asyncio.Event()
        self.relay: Relay | None = None
        self._failing_since: float | None = None
        self.has_seen = self._has_joined = self._is_closed = False

    # -- called by the relay ---------------------------------------------------------------------------------------

    def joined(self) -> None:
        self.look_at = 0.0
        self.mark_stale()

    def closed(self) -> None:
        self._is_closed = True
        self.wake()

    def followed(self) -> Iterable[str]:
        return (self.run_id,)

    def mark_stale(self) -> None:
        """Request a look at Redis."""
        self.is_stale = True
        self.wake()

    def wake(self) -> None:
        """Wake the waiting caller."""
        self._woken.set()

    # -- what is followed ------------------------------------------------------------------------------------------

    @abstractmethod
    def listen(self, relay: Relay) -> None:
        """Register to be woken, which is in effect once it is `joined`."""

    @abstractmethod
    def unlisten(self, relay: Relay) -> None:
        """The inverse of `listen`. May be called from a finalizer, on any thread."""

    @abstractmethod
    def look_key(self) -> Hashable:
        """Identifies what `look` asks: with equal keys, looks at the same time give the same answer."""

    @abstractmethod
    def look(self) -> Awaitable[Any]:
        """Ask Redis, once."""

    @abstractmethod
    def learn(self, seen: Any) -> None:
        """Process the answer of `look`."""

    @abstractmethod
    def found(self) -> T | None:
        """What there is to return to the caller, if anything."""

    @abstractmethod
    def late(self) -> str:
        """The error message when the caller's time is over."""

    def before_look(self) -> None:
        """Drop what the look will return anyway."""

    # -- for the caller --------------------------------------------------------------------------------------------

    async def next(self) -> T | None:
        """Wait for the next thing to return; None when the run is over. Always await it on the same loop.

        Raises:
            TimeoutError: The caller's time is over, and one last look has shown nothing new.
            WorkflowRuntimeError: The hub was closed.
            RunNotFound: No such run, or its retention is over.
            StoreUnavailable: Redis has not answered from the beginning on, for the store's `patience_seconds`.
        """
        relay = self.relay = self.relay or self.live.here()
        deadline: float | None = None
        has_looked_once_more = False
        while True:
            if self._is_closed:
                raise WorkflowRuntimeError(CLOSED)
            found = self.found()
            if found is not None or self.is_over:
                return found
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                if has_looked_once_more:
                    raise TimeoutError(self.late())
                has_looked_once_more = True
                await self._look(relay)
            elif self.is_stale and now >= self.look_at:
                await self._look(relay)
            elif not self._has_joined:
                self._has_joined = True
                self.listen(relay)
            else:
                if deadline is None and self.timeout is not None:
                    deadline = now + self.timeout
                await self._wait(deadline)

    def refuse_fork(self) -> None:
        """Raises:
        WorkflowRuntimeError: This is a forked child, and the follower belongs to its parent.
        """
        if self.live.pid != os.getpid():
            raise WorkflowRuntimeError(
                f"This reader of run {self.run_id!r} belongs to process {self.live.pid}, and this is its forked "
                f"child {os.getpid()}. Make a new reader here."
            )

    def leave(self) -> None:
        """Stop listening. May be called from a finalizer, on any thread."""
        if self._has_joined and self.relay is not None:
            self.unlisten(self.relay)

    async def _wait(self, deadline: float | None) -> None:
        until = min(deadline or self.look_at, self.look_at) if self.is_stale else deadline
        self._woken.clear()
        if until is None:
            await self._woken.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await self._woken.wait()

    async def _look(self, relay: Relay) -> None:
        self.before_look()
        self.is_stale = False
        try:
            seen = await relay.look(self.look_key(), self.look)
        except StoreUnavailable as error:
            self._note_outage(error)
        else:
            self.has_seen = True
            self.learn(seen)

    def _note_outage(self, error: StoreUnavailable) -> None:
        """Look again later; only an outage at the very beginning is raised to the caller."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        patience = self.live.store.patience_seconds
        if not self.has_seen and now - self._failing_since >= patience:
            reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise unavailable(self.live.where, f"follow run {self.run_id!r}", patience, reason) from error
        self.is_stale = True
        self.look_at = now + min(self.live.poll_seconds, RETRY)


class UntilEnded(Follower[RunEnd], Waiter):
    """A follower that waits for a run's end."""

    def __init__(self, live: LiveChannels, mailbox: Mailbox, run_id: str, timeout: float | None) -> None:
        """Args:
        live, run_id, timeout: As for a follower.
        mailbox: Where the run's end arrives.
        """
        super().__init__(live, run_id, timeout)
        self._mailbox = mailbox
        self._end: RunEnd | None = None
        # Listening first saves one look: `joined` causes the first one earlier, unless there is no connection.
        self.look_at = time.monotonic() + live.poll_seconds

    def listen(self, relay: Relay) -> None:
        self._mailbox.add(self.run_id, self)
        if self._mailbox.is_live:
            self.joined()

    def unlisten(self, relay: Relay) -> None:
        self._mailbox.remove(self.run_id, self)

    def joined(self) -> None:
        if not self.has_seen:  # otherwise the mailbox looks, for all waiters
            super().joined()

    def ended(self, end: RunEnd) -> None:
        self._end = end
        self.wake()

    def unsure(self) -> None:
        self.look_at = 0.0
        self.mark_stale()

    def look_key(self) -> Hashable:
        return self.run_id

    def look(self) -> Awaitable[RunRecord]:
        store = self.live.store
        return StoreReads(store.connection, store.settings, patience_seconds=0.0).run(self.run_id)

    def learn(self, seen: RunRecord) -> None:
        if seen.status != "running":
            self._end = RunEnd(seen.status, seen.ending)

    def found(self) -> RunEnd | None:
        return self._end

    def late(self) -> str:
        return f"Run {self.run_id!r} has not ended within {self.timeout:g} s. It continues: wait again, or cancel it."
