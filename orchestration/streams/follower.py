"""Following one run: look at Redis when it may be further than what is known here, else wait to be woken.

A follower lives on one event loop, its caller's or the portal's, and is touched nowhere else. Not here: what is found
(`reader.py`), and how it is heard (`relay.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Awaitable, Hashable
from typing import Any, Generic, TypeVar

import msgpack

from ..model.envelope import Envelope
from ..model.errors import StoreUnavailable, WorkflowRuntimeError
from ..store.reads import StoreReads
from ..store.replies import RunEnd, RunRecord
from .pubsub import CLOSED, LiveChannels
from .relay import Listener, Relay

T = TypeVar("T")

#: Longest time in seconds until Redis is asked again after it did not answer; its return is noticed at once anyway.
RETRY = 1.0


class Follower(Listener, Generic[T]):
    """One caller after one run.

    `is_stale` says that Redis may be further than what is known here. It is cleared *before* looking, so that what
    happens during a look makes for another one. `is_over` says that nothing more will be found.
    """

    run_id: str

    def __init__(self, live: LiveChannels, run_id: str, channel: str, timeout: float | None) -> None:
        """Args:
        live: What the process shares.
        run_id: The run.
        channel: What to listen to, once there is something to wait for.
        timeout: Longest time in seconds without anything to hand over.
        """
        self.live = live
        self.run_id = run_id
        self.is_stale = True
        self.is_over = False
        self.look_at = 0.0
        self.timeout = timeout
        self._channel = channel.encode()
        self._woken = asyncio.Event()
        self._relay: Relay | None = None
        self._failing_since: float | None = None
        self._has_seen = self._has_joined = self._is_closed = False

    # -- heard -----------------------------------------------------------------------------------------------------

    def joined(self) -> None:
        self.look_at = 0.0
        self.mark_stale()

    def closed(self) -> None:
        self._is_closed = True
        self.wake()

    def mark_stale(self) -> None:
        """Have Redis looked at."""
        self.is_stale = True
        self.wake()

    def wake(self) -> None:
        """End the caller's waiting."""
        self._woken.set()

    # -- what is followed ------------------------------------------------------------------------------------------

    @abstractmethod
    def look_key(self) -> Hashable:
        """What `look` would ask: for equal keys it gives the same answer at the same time."""

    @abstractmethod
    def look(self) -> Awaitable[Any]:
        """Ask Redis, once."""

    @abstractmethod
    def learn(self, seen: Any) -> None:
        """Take in what `look` has seen."""

    @abstractmethod
    def found(self) -> T | None:
        """What there is to hand over, if anything."""

    @abstractmethod
    def late(self) -> str:
        """What to say when the caller's time is over."""

    def before_look(self) -> None:
        """Drop what the look will show anyway."""

    # -- for the caller --------------------------------------------------------------------------------------------

    async def next(self) -> T | None:
        """Wait for the next thing to hand over; None when it is over. Always to be awaited on the same loop.

        Raises:
            TimeoutError: The caller's time is over, and one last look has shown nothing new.
            WorkflowRuntimeError: The hub was closed.
            RunNotFound: No such run, or its retention is over.
            StoreUnavailable: Redis has not answered since the beginning, for as long as the store is patient.
        """
        relay = self._relay = self._relay or self.live.here()
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
                self.live.join(relay, self._channel, self)
            else:
                if deadline is None and self.timeout is not None:
                    deadline = now + self.timeout
                await self._wait(deadline)

    def refuse_fork(self) -> None:
        """Raises:
        WorkflowRuntimeError: This is a forked child, and the follower its parent's.
        """
        if self.live.pid != os.getpid():
            raise WorkflowRuntimeError(
                f"This reader of run {self.run_id!r} belongs to process {self.live.pid}, and this is its forked "
                f"child {os.getpid()}. Make a new reader here."
            )

    def leave(self) -> None:
        """Listen no more. May be called from a finalizer, on any thread."""
        if self._has_joined and self._relay is not None:
            self.live.leave(self._relay, self._channel, self)

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
            self._has_seen = True
            self.learn(seen)

    def _note_outage(self, error: StoreUnavailable) -> None:
        """Look again later; only an outage at the very beginning is the caller's business."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        patience = self.live.store.patience_seconds
        if not self._has_seen and now - self._failing_since >= patience:
            where = self.live.where
            raise StoreUnavailable(
                f"Redis at {where} did not answer for {patience:g} s when umbel wanted to follow run {self.run_id!r}: "
                f"{error.__cause__}. Start Redis or fix UMBEL_REDIS_URL, then try again.",
                where,
            ) from error
        self.is_stale = True
        self.look_at = now + min(self.live.poll_seconds, RETRY)


class UntilEnded(Follower[RunEnd]):
    """One wait for a run's end."""

    def __init__(self, live: LiveChannels, run_id: str, timeout: float | None) -> None:
        super().__init__(live, run_id, live.store.locate(run_id)["ended"], timeout)
        self._prefix = run_id.encode() + b"\0"
        self._end: RunEnd | None = None
        # Joining first saves one look: `joined` brings it forward, unless there is no connection.
        self.look_at = time.monotonic() + live.poll_seconds

    def heard(self, message: bytes) -> None:
        if not message.startswith(self._prefix):
            return
        status, event = msgpack.unpackb(message[len(self._prefix) :], raw=True)
        if event:
            self._end = RunEnd(status.decode(), Envelope.from_bytes(event))
            self.wake()
        else:
            self.mark_stale()

    def checked(self, head: int, running: bool) -> None:
        if not running:
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
        return f"Run {self.run_id!r} has not ended within {self.timeout:g} s. It goes on: wait again, or cancel it."
