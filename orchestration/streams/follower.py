"""Following one run: what to do next is decided in one place, and waited for by two small drivers.

A `Follower` never blocks: it hands over what it has, or says that Redis must be looked at, that there is nothing to do
but wait, or that it is over. `follow` does the waiting in the calling thread, `follow_on_loop` on an event loop. Not
here: what is pursued (`streams.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from redis.exceptions import RedisError

from ..model.errors import StoreUnavailable, UmbelError, WorkflowRuntimeError
from ..store.blocking import BlockingStore as Store
from ..store.settings import redact_url
from .log import read_heads
from .pubsub import CLOSED, Listener, LiveChannels

T = TypeVar("T")

logger = logging.getLogger("umbel.streams")

#: Longest time in seconds until Redis is asked again after it did not answer; its return is noticed at once anyway.
RETRY = 1.0


@dataclass(eq=False, slots=True)
class _Errand:
    """Something to ask Redis, and those who want the answer."""

    act: Callable[[], Any]
    key: Hashable
    askers: list[Future[Any]]

    def run(self) -> None:
        """Do it, unless nobody waits any more."""
        askers = [asker for asker in self.askers if asker.set_running_or_notify_cancel()]
        if not askers:
            return
        try:
            answer = self.act()
        except BaseException as error:
            for asker in askers:
                asker.set_exception(error)
        else:
            for asker in askers:
                asker.set_result(answer)


class ReaderHub:
    """What all pursuits of one process share: the live connection, and a thread that asks Redis for event loops."""

    def __init__(self, store: Store, poll_seconds: float) -> None:
        """Starts and connects nothing. The arguments are those of `StreamHub`."""
        self.pid = os.getpid()
        self.store = store
        self.poll_seconds = poll_seconds
        self.where = redact_url(store.settings.redis_url or "")
        self.live = LiveChannels(store.client, where=self.where, tick_seconds=poll_seconds, on_tick=self._check)
        self._errands: SimpleQueue[_Errand | None] = SimpleQueue()
        self._waiting: dict[Hashable, _Errand] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_checking = self._is_closed = False

    def background_read(self, act: Callable[[], T], key: Hashable = None) -> Future[T]:
        """Have `act`, which may block, run on the background_read thread.

        Args:
            act: What to do.
            key: Errands of one key give one answer: those that have not begun yet are done once for all who asked. So
                a thousand readers that go back to the log at one place do not stand in each other's way.

        Raises:
            WorkflowRuntimeError: Closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise WorkflowRuntimeError(CLOSED)
            if key is not None and key in self._waiting:
                self._waiting[key].askers.append(future)
                return future
            background_read = _Errand(act, key, [future])
            if key is not None:
                self._waiting[key] = background_read
            self._errands.put(background_read)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_errands, name="umbel-stream-log", daemon=True)
                self._thread.start()
        return future

    def close(self) -> None:
        """End connection and threads; what is pursued meanwhile ends with `WorkflowRuntimeError`."""
        self.live.close()
        with self._lock:
            self._is_closed = True
            self._errands.put(None)

    def _run_errands(self) -> None:
        while (background_read := self._errands.get()) is not None:
            with self._lock:
                self._waiting.pop(background_read.key, None)
            background_read.run()
            del background_read  # an idle thread keeps nobody's reader alive

    def _check(self, run_ids: Sequence[str]) -> None:
        if run_ids and not self._is_checking:
            self._is_checking = True
            self.background_read(partial(self._look, run_ids))

    def _look(self, run_ids: Sequence[str]) -> None:
        try:
            heads = read_heads(self.store, run_ids)
            self.live.post(lambda: self.live.log_checked(heads))
        except (UmbelError, RedisError) as error:
            logger.debug("could not look at the runs that are followed: %s", error, extra={"action": "look_failed"})
        finally:
            self._is_checking = False


class Action(Enum):
    """What a pursuit wants when it has nothing to hand over."""

    READ = "look"
    WAIT = "wait"
    END = "end"


class Follower(Listener, Generic[T]):
    """One caller after one run.

    `is_stale` says that Redis may be further than what is known here. It is cleared *before* looking, so that what
    happens during a look makes for another one. The live thread only ever sets it.
    """

    run_id: str

    def __init__(
        self, board: ReaderHub, run_id: str, channel: str, wake: Callable[[], None], timeout: float | None
    ) -> None:
        """Args:
        board: What the process shares.
        run_id: The run.
        channel: What to listen to, once there is something to wait for.
        wake: Ends the caller's waiting; called on the live thread.
        timeout: Longest time in seconds without anything to hand over.
        """
        self.board = board
        self.run_id = run_id
        self.is_stale = True
        self.look_at = 0.0
        self.timeout = timeout
        self._channel = channel
        self._wake = wake
        self._deadline: float | None = None
        self._has_looked_once_more = False
        self._failing_since: float | None = None
        self._has_seen = self._has_joined = self._is_closed = False

    # -- on the live thread ----------------------------------------------------------------------------------------

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
        try:
            self._wake()
        except RuntimeError:  # its event loop was closed under it: nobody is waiting any more
            self.leave()

    # -- what is pursued -------------------------------------------------------------------------------------------

    @abstractmethod
    def look(self) -> Any:
        """ScriptCall Redis, once, and change nothing here: a caller who is cancelled meanwhile goes on elsewhere."""

    @abstractmethod
    def look_key(self) -> Hashable:
        """What `look` would ask: for equal keys it gives the same answer at the same time."""

    @abstractmethod
    def learn(self, seen: Any) -> None:
        """Take in what `look` has seen."""

    @abstractmethod
    def next_found(self) -> T | None:
        """The next thing to hand over."""

    @abstractmethod
    def late(self) -> str:
        """What to say when the caller's time is over."""

    def is_over(self) -> bool:
        """Nothing more will be found."""
        return False

    def before_look(self) -> None:
        """Drop what the look will tell anyway."""

    # -- for the drivers -------------------------------------------------------------------------------------------

    def step(self) -> T | Action:
        """What the caller gets, or what has to be done to get there.

        Raises:
            TimeoutError: The caller's time is over, and one last look has shown nothing new.
            WorkflowRuntimeError: The hub was closed, or this is a forked child.
        """
        if self.board.pid != os.getpid():
            raise WorkflowRuntimeError(
                f"This reader of run {self.run_id!r} belongs to process {self.board.pid}, and this is its forked "
                f"child {os.getpid()}. Make a new reader here."
            )
        if self._is_closed:
            raise WorkflowRuntimeError(CLOSED)
        found = self.next_found()
        if found is not None:
            self._deadline, self._has_looked_once_more = None, False
            return found
        if self.is_over():
            return Action.END
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            if self._has_looked_once_more:
                raise TimeoutError(self.late())
            self._has_looked_once_more = True
            return self._to_look()
        if self.is_stale and now >= self.look_at:
            return self._to_look()
        if not self._has_joined:
            self.board.live.join(self._channel, self)
            self._has_joined = True
        if self._deadline is None and self.timeout is not None:
            self._deadline = now + self.timeout
        return Action.WAIT

    def _to_look(self) -> Action:
        self.before_look()
        self.is_stale = False
        return Action.READ

    def longest_wait(self) -> float | None:
        """Seconds after which `step` has something to say in any case."""
        limits = [] if self._deadline is None else [self._deadline]
        if self.is_stale:
            limits.append(self.look_at)
        return max(0.0, min(limits) - time.monotonic()) if limits else None

    def ask(self) -> Any:
        """`look`, with an outage as an answer."""
        try:
            return self.look()
        except StoreUnavailable as error:
            return error

    def answer(self, seen: Any) -> None:
        """Take in the answer of `ask`. Only an outage at the very beginning is the caller's business.

        Raises:
            StoreUnavailable: Redis has not answered since the beginning, for as long as the store is patient.
        """
        if not isinstance(seen, StoreUnavailable):
            self._has_seen = True
            self.learn(seen)
            return
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        patience = self.board.store.patience_seconds
        if not self._has_seen and now - self._failing_since >= patience:
            raise StoreUnavailable(
                f"Redis at {self.board.where} did not answer for {patience:g} s when umbel wanted to follow run "
                f"{self.run_id!r}: {seen.__cause__}. Start Redis or mend UMBEL_REDIS_URL, then try again.",
                self.board.where,
            ) from seen
        self.is_stale = True
        self.look_at = now + min(self.board.poll_seconds, RETRY)

    def leave(self) -> None:
        """Listen no more. May be called from a finalizer, on any thread."""
        if self._has_joined:
            self.board.live.leave(self._channel, self)


class _Alarm:
    """Wakes one loop for all who wait on it: a thousand readers of one run cost one call into the loop."""

    def __init__(self) -> None:
        self._due: deque[asyncio.Event] = deque()
        self._is_rung = False

    def wake(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        """Have `event` set on the loop. From any thread.

        Raises:
            RuntimeError: The loop is closed.
        """
        self._due.append(event)
        if not self._is_rung:
            self._is_rung = True
            loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._is_rung = False  # first: what comes from now on rings again
        while self._due:
            self._due.popleft().set()


_alarms: WeakKeyDictionary[asyncio.AbstractEventLoop, _Alarm] = WeakKeyDictionary()
_alarms_lock = threading.Lock()


def _alarm_of(loop: asyncio.AbstractEventLoop) -> _Alarm:
    with _alarms_lock:
        known = _alarms.get(loop)
        if known is None:
            known = _alarms[loop] = _Alarm()
        return known


class LoopWake:
    """A `threading.Event` for an event loop: set from any thread, awaited on the loop that made it."""

    def __init__(self) -> None:
        """Belongs to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._alarm = _alarm_of(self._loop)
        self._event = asyncio.Event()
        self._is_set = False

    def set(self) -> None:
        """Wake the loop; once is enough until `clear`.

        Raises:
            RuntimeError: The loop is closed.
        """
        if self._loop.is_closed():
            raise RuntimeError("the event loop is closed")
        if not self._is_set:
            self._is_set = True
            self._alarm.wake(self._loop, self._event)

    def clear(self) -> None:
        """Forget what was set; look for its reason after this, not before."""
        self._event.clear()
        self._is_set = False

    async def wait(self, seconds: float | None) -> None:
        """Wait until set, at most so long."""
        if seconds is None:
            await self._event.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


def follow(pursuit: Follower[T], wake: threading.Event) -> Generator[T, None, None]:
    """Run a pursuit in the calling thread; `wake` is what the pursuit's `wake` sets."""
    try:
        is_armed = False
        while (move := pursuit.step()) is not Action.END:
            if move is Action.READ:
                pursuit.answer(pursuit.ask())
            elif not isinstance(move, Action):
                yield move
            elif is_armed:
                wake.wait(pursuit.longest_wait())
            else:
                wake.clear()  # then step once more: the reason of what was set before shows there
            is_armed = move is Action.WAIT and not is_armed
    finally:
        pursuit.leave()


async def follow_on_loop(pursuit: Follower[T], wake: LoopWake) -> AsyncGenerator[T, None]:
    """Run a pursuit on the running event loop, which is not blocked."""
    try:
        is_armed = False
        while (move := pursuit.step()) is not Action.END:
            if move is Action.READ:
                pursuit.answer(
                    await asyncio.wrap_future(pursuit.board.background_read(pursuit.ask, pursuit.look_key()))
                )
            elif not isinstance(move, Action):
                yield move
            elif is_armed:
                await wake.wait(pursuit.longest_wait())
            else:
                wake.clear()
            is_armed = move is Action.WAIT and not is_armed
    finally:
        pursuit.leave()
