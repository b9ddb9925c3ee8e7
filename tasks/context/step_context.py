"""What a context does inside a step: emit, collect, wait. It belongs to one attempt of one work item."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...orchestration.engine.cancelling.expiries import KEY
from ...orchestration.engine.cancelling.selection import Selection
from ...orchestration.history.forks.recorded import Recorded
from ...orchestration.model.durations import LONGEST_SECONDS, is_duration
from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import RunClosed, UnserializableValue, WorkflowRuntimeError
from ...orchestration.model.tagged_json import NotJson
from ...orchestration.model.waiters import Waiter
from ...orchestration.model.work_item import Outcome, Suspended, Work, buffer_name, derive_id
from ...orchestration.state.redis_hash import Reads, StateHash
from ...orchestration.store.replies import Refusal
from ...orchestration.store.verbs import Store
from ..events.codec import decode_event, encode_event
from ..events.event import Event, StartEvent, event_name
from ..logs.gathered import StepLog
from ..logs.writing import StepLogs
from ..state.access import StateAccess
from ..state.store import DictState, StateStore, SyncStateStore
from ..state.write_back import WriteBackStore
from ..values.json_values import dump_json, to_json_value
from ..values.texts import is_text
from ..workflow.registry import Registered, Registry
from ..workflow.start_events import START_EVENT
from .children import Children
from .emissions import Emissions, check_target, selected
from .memos import Memos
from .reuse import take
from .waits import RaisedWaits, WaitNames, checked_requirements, find_answer, is_event_class

logger = logging.getLogger("umbel.steps")


@dataclass(frozen=True, slots=True)
class SentEvent:
    """A handle for withdrawing an event that a step has sent."""

    _withdraw: Callable[[], int]

    def cancel(self) -> int:
        """Cancel the step executions for the event that have not ended; blocks for Redis if the event was delivered.

        Work that resulted from steps that have already ended continues.

        Returns:
            How many step executions were cancelled.
        """
        return self._withdraw()


class StepContext:
    """The implementation of a context inside a step, for one attempt of one work item."""

    def __init__(
        self,
        work: Work,
        emissions: Emissions,
        store: Store,
        collecting: Store,
        side: Store,
        registered: Registered,
        registry: Registry,
        recorded: Recorded | None = None,
        logs: StepLogs | None = None,
    ) -> None:
        """Args:
        work: The attempt.
        emissions: Its buffer of early events.
        store: For reading and the state.
        collecting: For `collect_events`, which blocks: on another portal, with short patience.
        side: As `store`, on a portal whose loop user code does not block.
        registered: Its workflow here.
        registry: All workflows here.
        recorded: Its recorded outcome, to be used if nothing has changed.
        logs: Where its log is kept; None if it is not kept.
        """
        config = registered.steps[work.step]
        self.work, self.emissions = work, emissions
        self.registry, self.settings = registered.events, store.settings
        self.accepts_subclasses = config.accept_event_subclasses
        self._collecting = collecting
        self._store, self._side = store, side
        self._state_class, self._is_async = registered.state_class or DictState, config.is_async
        self.writes_back = registered.workflow.writes_back
        self._changed_in_place: Mapping[str, bytes] = {}
        self._state: StateStore[Any] | SyncStateStore[Any] | None = None
        #: Replaces the state in Redis when an attempt is replayed.
        self.recorded_state: StateHash | None = None
        self.taken: list[str] = []
        self._plan = registered.plan
        #: An emitted event that this worker's code routes to a step but the run's plan does not.
        self.misrouted: Envelope | None = None
        self._confirmed: list[None] = []
        self._collect_calls: dict[str, int] = {}
        self.wait_names, self.waits = WaitNames(work), RaisedWaits(work)
        self.memos = Memos(work, store, self._confirmed)
        self.children = Children(work, registry, store.settings, self.waits)
        self._warned: set[tuple[str, str]] = set()
        self._recorded = recorded
        #: The recorded outcome was taken; the step is not executed.
        self.is_recorded = False
        self.logs = logs
        #: What the step has logged; None if nothing.
        self.log: StepLog | None = None

    @property
    def state(self) -> Any:
        """`ctx.store`: awaitable in an `async def` step, blocking in a plain one."""
        if self._state is None:
            about = self.work.run_id, self.work.state_id, self._state_class, self.work
            more: Any = {"recorded": self.recorded_state, "confirmed": self._confirmed}
            if self._is_async:
                kind: type[StateStore[Any]] = WriteBackStore if self.writes_back else StateStore
                renewing = self._side if self.recorded_state is None else None
                self._state = kind(StateAccess(self._store, *about, renewing=renewing, **more))
            else:
                self._state = SyncStateStore(StateAccess(self._side, *about, **more))
        return self._state

    @property
    def start_event(self) -> StartEvent:
        """See `Context.start_event`."""
        kept = json.loads(self.work.options).get(START_EVENT) if START_EVENT in self.work.options else None
        if kept is None:
            raise WorkflowRuntimeError(
                f"Run {self.work.run_id!r} does not keep its start event, which step {self.work.step!r} asks "
                "for: it continues from a snapshot, or no function in the class or the module of its workflow "
                "mentions start_event. Mention ctx.start_event there, or pass on in events what steps need."
            )
        event = decode_event(Envelope.from_bytes(kept.encode()), self.registry)
        assert isinstance(event, StartEvent)
        return event

    @property
    def exchanges(self) -> int:
        """How many writes to `ctx.store`, calls of `collect_events` and values of `ctx.once` Redis has confirmed."""
        return len(self._confirmed)

    async def recorded_outcome(self) -> Outcome | None:
        """The recorded outcome, if there is one and nothing has changed; its writes and emissions are then repeated.

        Raises:
            RunClosed: The attempt is obsolete.
            StoreUnavailable: Redis did not answer.
        """
        if self._recorded is None:
            return None
        outcome = await take(self._recorded, self.work, self.emissions, self.state.hash, self._store)
        self.is_recorded = outcome is not None
        return outcome

    @property
    def reads(self) -> Reads:
        """What the attempt has read of `ctx.store`."""
        return frozenset() if self._state is None else self._state.hash.reads

    async def find_changes(self) -> None:
        """Find the values of the state that the step has changed in place, for the commit to write.

        Raises:
            UmbelError: As `WriteBackStore.changed`.
        """
        if isinstance(self._state, WriteBackStore):
            self._changed_in_place = await self._state.changed_in_place()

    @property
    def state_to_write(self) -> Mapping[str, bytes]:
        """Top-level keys of the state that the commit writes -> JSON."""
        if not isinstance(self._state, WriteBackStore):
            return {}
        return {**self._state.kept_back, **self._changed_in_place}

    async def write_state(self) -> None:
        """Write the values that the step has set, before its sent events are delivered.

        Raises:
            UmbelError: As `WriteBackStore.write_kept_back`.
        """
        if isinstance(self._state, WriteBackStore):
            await self._state.write_kept_back()

    async def keep_log(self) -> None:
        """Start writing the step's log ahead of its commit, without waiting for the reply."""
        if self.log is not None and self.logs is not None:
            await self.logs.end(self.log, self._store)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.work.run_id

    def send(self, event: Event, target: str | None) -> SentEvent:
        """Check the target, then buffer the event."""
        envelope = encode_event(event, self.settings)
        if not self.routes(envelope):
            return SentEvent(lambda: 0)
        check_target(self.emissions.plan, envelope, target)
        if target is None:
            self._warn_of_gathering(envelope)
        self.emissions.exchanges = self.exchanges
        emit_id = self.emissions.send(envelope, target)
        return SentEvent(lambda: self._withdraw(emit_id, envelope, target))

    def _withdraw(self, emit_id: str, event: Envelope, target: str | None) -> int:
        steps = [step.name for step in self.emissions.plan.accepting(event) if target in (None, step.name)]
        if self.emissions.withdraw(emit_id):
            return len(steps)
        work_ids = frozenset(derive_id(self.work.ids_of, self.work.work_id, emit_id, step) for step in steps)
        return self.emissions.cancel_work(Selection(work_ids=work_ids))

    def cancel_step(
        self, step: str, where: Mapping[str, Any], downstream: bool, instead: Event | None, reason: str
    ) -> int:
        """See `Context.cancel_step`."""
        event = None if instead is None else encode_event(instead, self.settings)
        selection = selected(self._about("cancel_step"), step, where, but=self.work.work_id)
        return self.emissions.cancel_work(selection, downstream=downstream, instead=event, reason=reason)

    def routes(self, event: Envelope) -> bool:
        """False if the code here routes this event to a step but the run's plan does not; `misrouted` is then set."""
        if self.emissions.plan.misroutes(event, self._plan):
            self.misrouted = event
        return self.misrouted is None

    def _warn_of_gathering(self, envelope: Envelope) -> None:
        """Warn, once per attempt, that a sent event does not reach a step that gathers events of its class."""
        for step in self.emissions.plan.steps:
            warning = (step.name, envelope.type)
            if step.kind == "collect" and warning not in self._warned and step.accepts_event(envelope):
                self._warned.add(warning)
                logger.warning(
                    "step %r gathers the events of a fan-out and does not get the %s that step %r of run %s sent; "
                    "return a list of events instead",
                    step.name,
                    envelope.type.rpartition(".")[2],
                    self.work.step,
                    self.work.run_id,
                    extra={"action": "sent_event_not_gathered", "run_id": self.work.run_id, "step": self.work.step},
                )

    def _warn_of_subclass(self, about: str, member: Envelope, needed: Collection[str]) -> None:
        """Warn, once per attempt, that `collect_events` leaves out an event: sets are collected by exact class."""
        parent = next((name for name in member.parents if name in needed), None)
        warning = (self.work.step, member.type)
        if parent is not None and warning not in self._warned:
            self._warned.add(warning)
            short, above = (name.rpartition(".")[2] for name in (member.type, parent))
            logger.warning(
                "%s was given a %s and leaves it out: it collects the exact class %s. Name %s in the list as well, or "
                "let the step take a list[%s], which gathers subclasses too",
                about,
                short,
                above,
                short,
                above,
                extra={"action": "subclass_not_collected", "run_id": self.work.run_id, "step": self.work.step},
            )

    def collect(
        self,
        event: Event,
        expected: Sequence[type[Event]],
        buffer_id: str | None,
        key: Any = None,
        within_seconds: float | None = None,
    ) -> list[Event] | None:
        """One atomic exchange; see `Context.collect_events`."""
        about = self._about("collect_events")
        if not isinstance(expected, Sequence) or not all(map(is_event_class, expected)):
            raise WorkflowRuntimeError(f"{about} was given {expected!r}. Give a list of event classes: [Card] * 3.")
        if not expected:
            return []
        if key is not None and buffer_id is not None:
            raise WorkflowRuntimeError(f"{about} takes a buffer_id or a key, not both.")
        if within_seconds is not None and not (is_duration(within_seconds) and within_seconds > 0):
            raise WorkflowRuntimeError(
                f"{about}: within_seconds must be a number of seconds up to {LONGEST_SECONDS:,}, got "
                f"{within_seconds!r}."
            )
        if key is not None:
            try:
                buffer_id = KEY + dump_json(to_json_value(key)).decode()
            except NotJson as flaw:
                raise UnserializableValue(f"{about}: the key cannot be kept: {flaw}") from flaw
        elif not is_text(str(buffer_id)):
            raise WorkflowRuntimeError(f"{about} was given the buffer_id {buffer_id!r}, which UTF-8 cannot carry.")
        buffer_id = buffer_id or "default"
        buffer = derive_id(self.work.step, buffer_id)
        needed = Counter(event_name(cls) for cls in expected)
        number = self._collect_calls.get(buffer, 0)
        call = f"{buffer}|{self.work.work_id}|{number}"
        self._collect_calls[buffer] = number + 1
        taken = f"taken:{derive_id(call)}"
        member = encode_event(event, self.settings)
        answer = self._collecting.connection.portal.call(
            self._collecting.collect(
                self.work,
                buffer=f"{self.work.step}|{buffer_id}",
                call=call,
                event=member,
                expected=[(name, n, buffer_name(self.work.step, buffer_id, name)) for name, n in needed.items()],
                taken=taken,
                within_seconds=within_seconds,
            )
        )
        if isinstance(answer, Refusal):
            raise RunClosed(f"{about} is obsolete ({answer}).", self.work.claim_id)
        if member.type in needed:
            self._confirmed.append(None)
        else:
            self._warn_of_subclass(about, member, needed)
        if answer is None:
            return None
        self.taken.append(taken)
        by_type: dict[str, list[Event]] = {}
        for envelope in answer:
            by_type.setdefault(envelope.type, []).append(decode_event(envelope, self.registry))
        return [by_type[event_name(cls)].pop(0) for cls in expected]

    def _about(self, method: str) -> str:
        return f"{method}() of step {self.work.step!r} of run {self.work.run_id!r}"

    def wait(
        self,
        event_type: type[Event],
        announce: Event | None,
        waiter_id: str | None,
        requirements: dict[str, Any],
        timeout: float | None,
    ) -> Event:
        """Return the answer if there is one, else unwind the step.

        Raises:
            WorkflowRuntimeError: The timeout is not a valid duration, or another argument is not what it should be.
            WorkflowRuntimeError: Another task of the step waits for the same, and neither has a `waiter_id`; or the
                wait of this `waiter_id` was for another class.
            UnserializableValue: A requirement can never be met: an event's JSON cannot contain such a value.
            PayloadTooLarge: The requirements are too large.
            EventMismatch: Too many answers do not match their class.
            TimeoutError: No answer came in time.
            Waits: There is no answer yet, or the last one does not match its class: this is published to the run's
                stream, and the question is asked again.
        """
        if timeout is not None and not is_duration(timeout):
            raise WorkflowRuntimeError(
                f"Step {self.work.step!r} of run {self.work.run_id!r} cannot wait {timeout!r} s for an "
                f"{event_type.__name__}. timeout must be a number of seconds up to {LONGEST_SECONDS:,}, or None to "
                "wait as long as the run lives."
            )
        if waiter_id is not None and not is_text(waiter_id):
            raise WorkflowRuntimeError(
                f"{self._about('wait_for_event')} was given the waiter_id {waiter_id!r}. Give a text that names the "
                "wait, the same whenever the step is executed; a number as text: str(number)."
            )
        requirements = checked_requirements(self.work, event_type, requirements)
        announced = None if announce is None else encode_event(announce, self.settings)
        if waiter_id is None:
            waiter_id = self.wait_names.of(event_name(event_type), requirements, announced)
        answer = find_answer(waiter_id, self.work, self.registry)
        if answer.event is not None:
            if not isinstance(answer.event, event_type) and event_name(type(answer.event)) != event_name(event_type):
                raise WorkflowRuntimeError(
                    f"{self._about('wait_for_event')} waits for {event_type.__name__} with the waiter_id "
                    f"{waiter_id!r}, which was answered by a {type(answer.event).__name__}. Give each wait a waiter_id "
                    "of its own, and another one when it waits for another class than in earlier code."
                )
            return answer.event
        if answer.is_late:
            raise TimeoutError(
                f"No {event_type.__name__} arrived within {timeout} s for step {self.work.step!r} of run "
                f"{self.work.run_id!r}."
            )
        if answer.unreadable is not None:
            self.emissions.publish(encode_event(answer.unreadable, self.settings))
        waiter = Waiter(
            self.work.work_id,
            answer.name,
            self.work.step,
            event_name(event_type),
            requirements,
            self.accepts_subclasses,
        )
        raise self.waits.new(Suspended(waiter, announced, timeout), self.wait_names.main())
