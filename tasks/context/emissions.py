"""What a running step emits before its end: `send_event` and `write_event_to_stream`, buffered and flushed early.

Both calls only append to a buffer. It is emptied within milliseconds, with one script for each burst, from a portal
that user code cannot block. What is left when the step returns becomes part of its commit. A sent event is identified
by the work item, its content and how often that content was sent before, so a later attempt that sends the same event
delivers nothing twice. Published events are never merged across attempts; each carries its attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...orchestration.connection.portal import Portal
from ...orchestration.engine.cancelling.selection import Selection
from ...orchestration.engine.emitted import Sent
from ...orchestration.engine.protocol import Engine
from ...orchestration.model.commands import Command, Publish
from ...orchestration.model.decide import CHUNK
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import UmbelError, UnserializableValue, WorkflowRuntimeError
from ...orchestration.model.plan import Plan
from ...orchestration.model.tagged_json import NotJson
from ...orchestration.model.work_item import Work, derive_id
from ...orchestration.store.replies import Refusal
from ..values.json_values import to_json_object

logger = logging.getLogger("umbel.emissions")

#: After this many consecutive pauses without a reply the writer no longer pauses until a reply arrives.
_MAX_UNANSWERED_PAUSES = 20


class Burst:
    """Makes a step that writes many events without a pause wait briefly until they are sent. One for each buffer.

    A busy thread releases the interpreter only every 5 ms, and a flush needs it several times. So after `events`
    events, or with the first event written more than `after_seconds` after the burst began, the writer waits for the
    reply to a batch, for a few milliseconds at most, and not repeatedly while Redis is unreachable. A step that lets
    its event loop run between events never waits.
    """

    def __init__(self, events: int, *, after_seconds: float = 0.001, at_most_seconds: float = 0.004) -> None:
        """Args:
        events: After how many events the writer waits; 0 is never.
        after_seconds: How long after the first event the writer waits even if there are fewer.
        at_most_seconds: The longest wait.
        """
        self._events, self._after_seconds, self._at_most_seconds = events, after_seconds, at_most_seconds
        self._count, self._began, self._unanswered_pauses = 0, 0.0, 0
        self._answered = threading.Event()

    def written(self) -> None:
        """Another event is in the buffer. Call this on the thread or loop that wrote it."""
        now = time.monotonic()
        if self._count == 0:
            self._began = now
            with contextlib.suppress(RuntimeError):  # a plain step
                asyncio.get_running_loop().call_soon(self._over)
        self._count += 1
        if self._count < self._events and now - self._began < self._after_seconds:
            return
        if self._events and self._unanswered_pauses < _MAX_UNANSWERED_PAUSES:
            self._answered.clear()
            self._unanswered_pauses = 0 if self._answered.wait(self._at_most_seconds) else self._unanswered_pauses + 1
        self._count = 0

    def answered(self) -> None:
        """A batch is in Redis, or was refused. May be called from any thread."""
        self._unanswered_pauses = 0
        self._over()
        self._answered.set()

    def _over(self) -> None:
        self._count = 0


class Emissions:
    """The buffer of one attempt. Appending is thread-safe and waits for Redis only briefly, see `Burst`."""

    def __init__(
        self,
        work: Work,
        plan: Plan,
        engine: Engine,
        *,
        lost: Callable[[Refusal], None],
        notify: Callable[[Emissions], None],
    ) -> None:
        """Args:
        work: The attempt.
        plan: Its run's plan.
        engine: Writes bursts to Redis, on the flusher's portal.
        lost: Called when a burst is refused because the attempt is obsolete.
        notify: Asks the flusher to empty this buffer soon.
        """
        self.work, self.plan = work, plan
        self.batches = 0
        #: How many exchanges of the step Redis had confirmed before the last event was sent, see `Emitted`.
        self.exchanges = 0
        #: What emitted events are marked with, see `Tracing.attempt`.
        self.trace = ""
        #: Awaited before sent events are written to Redis ahead of the commit.
        self.before_sends: Callable[[], Awaitable[None]] | None = None
        self._engine, self._lost, self._notify = engine, lost, notify
        self._sends: list[Sent] = []
        self._publishes: list[Command] = []
        self._unanswered: tuple[list[Command], list[Sent]] | None = None
        self._occurrences: dict[tuple[str, bytes, str | None], int] = {}
        self._burst: Burst | None = None  # most steps never write
        self._closed = False
        self._buffer = threading.Lock()
        self._flushing = asyncio.Lock()

    def send(self, event: Envelope, target: str | None) -> str:
        """Emit an event to the steps that accept it, or only to `target`; return the event's identity."""
        content = (event.type, event.payload, target)
        with self._buffer:
            self._refuse_late(event)
            occurrence = self._occurrences[content] = self._occurrences.get(content, 0) + 1
            emit_id = derive_id(self.work.work_id, "sent", event.type, event.payload, target or "", occurrence)
            self._sends.append((emit_id, event.marked(self.trace), target))
            burst = self._begun_burst()
        self._notify(self)
        burst.written()
        return emit_id

    def withdraw(self, emit_id: str) -> bool:
        """Remove a sent event from the buffer; False if it was already flushed or is being flushed."""
        with self._buffer:
            on_its_way = self._unanswered[1] if self._unanswered is not None else ()
            left = [sent for sent in self._sends if sent[0] != emit_id or sent in on_its_way]
            was_there = len(left) < len(self._sends)
            self._sends[:] = left
        return was_there

    def cancel_work(self, selection: Selection, **about: Any) -> int:
        """Flush what was emitted so far, then cancel work of the run. Blocks; see `Engine.cancel_work`."""
        return self._engine.store.connection.portal.call(self._cancel_work(selection, about))

    async def _cancel_work(self, selection: Selection, about: dict[str, Any]) -> int:
        await self.flush()
        return await self._engine.cancel_work(self.work.run_id, selection, **about)

    def publish(self, event: Envelope) -> None:
        """Write an event to the run's stream."""
        with self._buffer:
            self._refuse_late(event)
            self._publishes.append(Publish(event, self.work.step, self.work.attempt))
            burst = self._begun_burst()
        self._notify(self)
        burst.written()

    def _begun_burst(self) -> Burst:
        if self._burst is None:
            self._burst = Burst(self._engine.store.settings.burst_events)
        return self._burst

    def _refuse_late(self, event: Envelope) -> None:
        if self._closed:
            raise WorkflowRuntimeError(
                f"{event.type} was emitted by step {self.work.step!r} of run {self.work.run_id!r} after the step had "
                "ended. Await the tasks a step starts before it returns."
            )

    async def flush(self) -> None:
        """Write the buffer to Redis, in bursts that keep each script short. To be called on the flusher's portal.

        Raises:
            StoreUnavailable: The burst stays buffered under its number; flushing again repeats it harmlessly.
        """
        async with self._flushing:
            await self._flush(until_it_rides=False, sends_ride=False)

    async def close(self, *, is_final: bool) -> tuple[Sequence[Command], Sequence[Sent]]:
        """The step has ended: flush what its commit cannot carry and return what it can. May be called on any loop.

        Afterwards nothing is flushed and nothing may be emitted, so that no burst is applied twice.

        Args:
            is_final: The work item ends with this attempt. If another attempt may follow, sent events are flushed,
                which records their identities; a commit would not.

        Raises:
            StoreUnavailable: As in `flush`.
        """
        sends_ride = is_final and not self.work.sent_early
        if not self._close_if_it_rides(sends_ride):
            await self._engine.store.connection.portal.run(self._flush_and_close(sends_ride))
        return self._publishes, self._sends

    async def _flush_and_close(self, sends_ride: bool) -> None:
        async with self._flushing:
            while not self._close_if_it_rides(sends_ride):
                await self._flush(until_it_rides=True, sends_ride=sends_ride)

    def _close_if_it_rides(self, sends_ride: bool) -> bool:
        with self._buffer:
            self._closed = self._closed or self._rides(sends_ride)
            return self._closed

    def _rides(self, sends_ride: bool) -> bool:
        """Whether the commit can carry what is buffered. Called with the buffer's lock held."""
        is_small = max(len(self._publishes), len(self._sends)) <= CHUNK
        return self._unanswered is None and is_small and (not self._sends or sends_ride)

    async def _flush(self, *, until_it_rides: bool, sends_ride: bool) -> None:
        while True:
            with self._buffer:
                if self._closed or (until_it_rides and self._rides(sends_ride)):
                    return
                # A burst whose answer is unknown is repeated as it was: its number may have been applied.
                publishes, sends = self._unanswered or (self._publishes[:CHUNK], self._sends[:CHUNK])
                if not publishes and not sends:
                    return
                self._unanswered = (publishes, sends)
            if sends and self.before_sends is not None:
                await self.before_sends()
            reply = await self._engine.flush(
                self.work,
                self.plan,
                batch=self.batches + 1,
                publishes=publishes,
                sends=sends,
                exchanges=self.exchanges,
            )
            with self._buffer:
                if isinstance(reply, Refusal):  # nothing more of this attempt will be applied
                    self._closed = True
                else:
                    self.batches += 1
                    del self._publishes[: len(publishes)]
                    del self._sends[: len(sends)]
                self._unanswered = None
            if self._burst is not None:
                self._burst.answered()
            if isinstance(reply, Refusal):
                self._lost(reply)
                return


def check_target(plan: Plan, envelope: Envelope, target: str | None) -> None:
    """Refuse a target that cannot receive the event.

    Raises:
        WorkflowRuntimeError: There is no such step, it does not accept this event, or it only gathers returned events.
    """
    if target is None:
        return
    step = plan.by_name.get(target) if isinstance(target, str) else None
    if step is None:
        raise WorkflowRuntimeError(
            f"Step {target if isinstance(target, str) else repr(target)} does not exist in workflow {plan.workflow!r}. "
            f"Its steps: {', '.join(plan.by_name)}."
        )
    if not step.accepts_event(envelope):
        accepted = ", ".join(name.rpartition(".")[2] for name in step.accepts)
        raise WorkflowRuntimeError(
            f"Step {target} does not accept event of type {envelope.type.rpartition('.')[2]}. It accepts: {accepted}."
        )
    if step.kind == "collect":
        raise WorkflowRuntimeError(
            f"Step {target!r} gathers the events of a fan-out, but {envelope.type.rpartition('.')[2]} was sent to it. "
            "Only returned events can be gathered: return a list of events."
        )


def selected(about: str, step: str, where: Mapping[str, Any], **narrowed: Any) -> Selection:
    """The executions of a step whose event has these field values.

    Args:
        about: Who selects, for errors.
        step: The step.
        where: Field -> value.
        **narrowed: Other criteria of `Selection`.

    Raises:
        WorkflowRuntimeError: `step` is not the name of a step, or `where` not a dict.
        UnserializableValue: No event can have such a value.
    """
    if not isinstance(step, str):
        raise WorkflowRuntimeError(f"{about} was given {step!r}. Give the name of a step: its method's name, as text.")
    if not isinstance(where, Mapping):
        raise WorkflowRuntimeError(f"{about} was given where={where!r}. Give a dict: where={{'page': 3}}.")
    try:
        return Selection(step=step, where=to_json_object(where), **narrowed)
    except NotJson as flaw:
        raise UnserializableValue(f"{about}: no event can have these field values: {flaw}") from flaw


class Flusher:
    """Empties the buffers of all running steps of a process, on a portal that user code cannot block."""

    def __init__(self, portal: Portal, gather_seconds: float) -> None:
        """Args:
        portal: Where bursts are sent from.
        gather_seconds: How long events are gathered before a burst is sent.
        """
        self._portal, self._gather_seconds = portal, gather_seconds
        self._waiting: set[Emissions] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    def notify(self, emissions: Emissions) -> None:
        """Have a buffer emptied soon; repeated calls until then count as one. May be called from any thread."""
        with self._lock:
            if emissions in self._waiting:
                return
            self._waiting.add(emissions)
        self._portal.loop.call_soon_threadsafe(self._begin, emissions)

    def _begin(self, emissions: Emissions) -> None:
        task = asyncio.get_running_loop().create_task(self._flush(emissions))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self, emissions: Emissions) -> None:
        if self._gather_seconds:
            await asyncio.sleep(self._gather_seconds)
        with self._lock:
            self._waiting.discard(emissions)
        try:
            await emissions.flush()
        except UmbelError as error:
            logger.warning(
                "events of step %s wait for Redis: %s",
                emissions.work.step,
                error,
                extra={"action": "flush_postponed", "run_id": emissions.work.run_id},
            )
            self.notify(emissions)
