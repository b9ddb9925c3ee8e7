"""What a running step emits before its end: `send_event` and `write_event_to_stream`, buffered and flushed early.

Both calls only append to a buffer. A flusher thread per process empties the buffers within milliseconds, one script for
a burst; what is left when the step returns rides in its commit. A sent event is identified by the work item, its
content and how often that content was sent before, so a later attempt that sends the same delivers nothing twice.
Published events are never merged across attempts; each carries its attempt.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from ...orchestration.model.commands import Command, Publish
from ...orchestration.model.decide import CHUNK, Limits, route
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import UmbelError, WorkflowRuntimeError
from ...orchestration.model.plan import Plan
from ...orchestration.model.work_item import Origin, Surroundings, Work, derive_id
from ...orchestration.store.blocking import BlockingStore as Store
from ...orchestration.store.replies import Applied, Refusal

logger = logging.getLogger("umbel.emissions")

Sent = tuple[str, Envelope, str | None]


class Emissions:
    """The buffer of one attempt. Appending is thread-safe and never blocks on Redis."""

    def __init__(
        self,
        work: Work,
        plan: Plan,
        store: Store,
        limits: Limits,
        *,
        ring: Callable[[Applied], None],
        lost: Callable[[Refusal], None],
        notify: Callable[[Emissions], None],
    ) -> None:
        """Args:
        work: The attempt.
        plan: Its run's plan.
        store: Where bursts go.
        limits: For routing.
        ring: Rings the dispatches of a burst.
        lost: Called when a burst is refused because the attempt is no longer wanted.
        notify: Asks the flusher to come by.
        """
        self.work, self.plan, self.limits = work, plan, limits
        self.batches = 0
        self._store, self._ring, self._lost, self._notify = store, ring, lost, notify
        self._sends: list[Sent] = []
        self._publishes: list[Command] = []
        self._unanswered: tuple[list[Command], list[Sent]] | None = None
        self._occurrences: Counter[tuple[str, bytes, str | None]] = Counter()
        self._closed = False
        self._buffer = threading.Lock()
        self._flushing = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be flushed; then `close` needs no exchange with Redis."""
        return not self._sends and not self._publishes

    def send(self, event: Envelope, target: str | None) -> None:
        """Emit an event to the steps that accept it, or only to `target`."""
        content = (event.type, event.payload, target)
        with self._buffer:
            self._refuse_late(event)
            self._occurrences[content] += 1
            occurrence = self._occurrences[content]
            emit_id = derive_id(self.work.work_id, "sent", event.type, event.payload, target or "", occurrence)
            self._sends.append((emit_id, event, target))
        self._notify(self)

    def publish(self, event: Envelope) -> None:
        """Write an event to the run's stream."""
        with self._buffer:
            self._refuse_late(event)
            self._publishes.append(Publish(event, self.work.step, self.work.attempt))
        self._notify(self)

    def _refuse_late(self, event: Envelope) -> None:
        if self._closed:
            raise WorkflowRuntimeError(
                f"{event.type} was emitted by step {self.work.step!r} of run {self.work.run_id!r} after the step had "
                "ended. Await the tasks a step starts before it returns."
            )

    def flush(self) -> None:
        """Bring the buffer to Redis, in bursts that keep each script short.

        Raises:
            StoreUnavailable: The burst stays buffered under its number; flushing again repeats it harmlessly.
        """
        with self._flushing:
            if not self._closed:
                self._flush(keep=False, sends_ride=False)

    def close(self, *, is_final: bool) -> tuple[list[Command], list[Sent]]:
        """The step has ended: flush what its commit cannot carry, and give what it can.

        From here on nothing is flushed and nothing may be emitted, so that no burst comes twice.

        Args:
            is_final: The work item ends with this attempt. If another attempt may follow, sent events are flushed,
                which records their identities; a commit would not.

        Raises:
            StoreUnavailable: As in `flush`.
        """
        with self._flushing:
            self._flush(keep=True, sends_ride=is_final and not self.work.sent_early)
            with self._buffer:
                self._closed = True
                return list(self._publishes), list(self._sends)

    def _flush(self, *, keep: bool, sends_ride: bool) -> None:
        while True:
            with self._buffer:
                # A burst whose answer is unknown is repeated as it was: its number may have been applied.
                publishes, sends = self._unanswered or (self._publishes[:CHUNK], self._sends[:CHUNK])
                rides = keep and self._unanswered is None and max(len(self._publishes), len(self._sends)) <= CHUNK
                if rides and (not sends or sends_ride):
                    return
                self._unanswered = (publishes, sends)
            if not publishes and not sends:
                self._unanswered = None
                return
            if not self._burst(publishes, sends):
                return
            with self._buffer:
                self._unanswered = None
                del self._publishes[: len(publishes)]
                del self._sends[: len(sends)]

    def _burst(self, publishes: Sequence[Command], sends: Sequence[Sent]) -> bool:
        surroundings = Surroundings(self.work.version)
        if sends and self.work.version:
            surroundings = self._store.surroundings(self.work.run_id)
        while True:
            reply = self._store.flush(
                self.work,
                self.plan,
                batch=self.batches + 1,
                version=surroundings.version,
                publishes=publishes,
                sends=self.routed(sends, surroundings)[0],
            )
            if reply is Refusal.CHANGED:
                surroundings = self._store.surroundings(self.work.run_id)
            elif isinstance(reply, Refusal):
                self._lost(reply)
                return False
            else:
                self.batches += 1
                self._ring(reply)
                return True

    def routed(
        self, sends: Sequence[Sent], surroundings: Surroundings
    ) -> tuple[list[tuple[str, list[Command]]], Surroundings]:
        """The commands of sent events by their identity, and the surroundings they leave.

        A sent event leaves the step's fan-outs: only returned events can be gathered.
        """
        origin = Origin(self.work.run_id, self.work.work_id, recoveries=self.work.recoveries)
        routed = []
        for emit_id, event, target in sends:
            commands = route(self.plan, event, origin, emit_id, surroundings, self.limits, target=target)
            routed.append((emit_id, commands))
            surroundings = surroundings.after(event)
        return routed, surroundings


class Flusher:
    """One thread per process that empties the buffers of all running steps."""

    def __init__(self, gather_seconds: float) -> None:
        """Args:
        gather_seconds: How long a burst may gather before it is sent.
        """
        self._gather_seconds = gather_seconds
        self._asked: queue.SimpleQueue[Emissions | None] = queue.SimpleQueue()
        self._waiting: set[Emissions] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def notify(self, emissions: Emissions) -> None:
        """Have a buffer emptied soon; many calls before that are one."""
        with self._lock:
            if emissions in self._waiting:
                return
            self._waiting.add(emissions)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="umbel-flusher", daemon=True)
                self._thread.start()
        self._asked.put(emissions)

    def close(self) -> None:
        """Stop the thread; buffers of running steps are left to their commits."""
        self._stop.set()
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while (emissions := self._asked.get()) is not None:
            self._stop.wait(self._gather_seconds)
            with self._lock:
                self._waiting.discard(emissions)
            try:
                emissions.flush()
            except UmbelError as error:
                logger.warning(
                    "events of step %s wait for Redis: %s",
                    emissions.work.step,
                    error,
                    extra={"action": "flush_postponed", "run_id": emissions.work.run_id},
                )
                if not self._stop.is_set():
                    self.notify(emissions)
