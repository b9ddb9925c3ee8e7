"""`Context`: what a step may do besides returning an event, and what a caller may do with a run from outside.

One class, two faces. In a step it emits, collects, waits and reads the step's attempt; outside it reads the state and
sends events. A method on the wrong face raises `ContextStateError`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Generic, cast

from pydantic import BaseModel
from typing_extensions import TypeVar

from ..orchestration.envelope import Envelope
from ..orchestration.errors import ContextStateError, RunClosed, WorkflowRuntimeError
from ..orchestration.plan import Plan
from ..orchestration.records import Refusal
from ..orchestration.settings import Settings
from ..orchestration.store import Store
from ..orchestration.work import Suspended, Waiter, Work, derive_id
from .codec import EventRegistry, decode_event, encode_event
from .emissions import Emissions
from .events import Event, event_name
from .markers import StepContextMarker
from .remote_exceptions import decode_exception
from .retry_policy import RetryInfo
from .state_store import DictState, StateStore, SyncStateStore

StateT = TypeVar("StateT", bound=BaseModel, default=DictState)
EventT = TypeVar("EventT", bound=Event)

#: The context of the step this thread or task executes.
current_context: ContextVar[Context[Any] | None] = ContextVar("umbel_step_context", default=None)


class WaitingForEvent(BaseException):
    """Unwinds a step that waits. Not an Exception, so that a step's own `except Exception` does not swallow it."""

    def __init__(self, suspended: Suspended) -> None:
        super().__init__(f"waiting for {suspended.waiter.event_type}")
        self.suspended = suspended


class StepFace:
    """Everything behind a context inside a step: one attempt of one work item."""

    def __init__(
        self,
        work: Work,
        emissions: Emissions,
        store: Store,
        collecting: Store,
        registry: EventRegistry,
        state_class: type[BaseModel] | None,
        accepts_subclasses: bool,
        is_async: bool,
    ) -> None:
        """Args:
        work: The attempt.
        emissions: Its buffer of early events.
        store: For reading and the state.
        collecting: For `collect_events`: a connection of its own with a short time-out, because the call blocks.
        registry: Classes of stored events.
        state_class: Model of the state.
        accepts_subclasses: The step's way of matching, which its waiters share.
        is_async: Which colour `ctx.store` has.
        """
        self.work, self.emissions = work, emissions
        self.registry, self.settings = registry, store.settings
        self.collecting = collecting
        self.accepts_subclasses = accepts_subclasses
        colour = StateStore if is_async else SyncStateStore
        self.state: Any = colour(store, work.run_id, work.state_id, state_class or DictState, work)
        self.taken: list[str] = []
        self._collect_calls: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()

    def send(self, event: Event, target: str | None) -> None:
        """Check the target, then buffer."""
        envelope = encode_event(event, self.settings)
        check_target(self.emissions.plan, envelope, target)
        if target is not None and self.emissions.plan.by_name[target].kind == "collect":
            raise WorkflowRuntimeError(
                f"Step {target!r} gathers the events of a fan-out, but {type(event).__name__} was sent by step "
                f"{self.work.step!r} outside of one. Only returned events can be gathered: return a list of events."
            )
        self.emissions.send(envelope, target)

    def collect(self, event: Event, expected: Sequence[type[Event]], buffer_id: str | None) -> list[Event] | None:
        """One atomic exchange; see `Context.collect_events`."""
        if not expected:
            return []
        buffer = derive_id(self.work.step, buffer_id or "default")
        needed = Counter(event_name(cls) for cls in expected)
        call = f"{buffer}|{self.work.work_id}|{self._collect_calls[buffer]}"
        self._collect_calls[buffer] += 1
        taken = f"taken:{derive_id(call)}"
        answer = self.collecting.collect(
            self.work,
            call=call,
            event=encode_event(event, self.settings),
            expected=[(name, n, f"buffer:{derive_id(buffer, name)}") for name, n in needed.items()],
            taken=taken,
        )
        if isinstance(answer, Refusal):
            raise RunClosed(f"Step {self.work.step!r} of run {self.work.run_id!r} is no longer wanted ({answer}).")
        if answer is None:
            return None
        self.taken.append(taken)
        by_type: dict[str, list[Event]] = {}
        for envelope in answer:
            by_type.setdefault(envelope.type, []).append(decode_event(envelope, self.registry))
        return [by_type[event_name(cls)].pop(0) for cls in expected]

    def wait(
        self,
        event_type: type[Event],
        announce: Event | None,
        waiter_id: str | None,
        requirements: dict[str, Any],
        timeout: float | None,
    ) -> Event:
        """Give the answer if there is one, else unwind the step."""
        if waiter_id is None:
            wanted = json.dumps(requirements, sort_keys=True, default=str)
            stem = f"waiter_{event_name(event_type)}_{wanted}"
            waiter_id = f"{stem}_{self._waits[stem]}"
            self._waits[stem] += 1
        if waiter_id in self.work.answers:
            answer = self.work.answers[waiter_id]
            if answer is None:
                raise TimeoutError(
                    f"No {event_type.__name__} arrived within {timeout} s for step {self.work.step!r} of run "
                    f"{self.work.run_id!r}."
                )
            return decode_event(answer, self.registry)
        waiter = Waiter(
            self.work.work_id,
            waiter_id,
            self.work.step,
            event_name(event_type),
            requirements,
            self.accepts_subclasses,
        )
        told = None if announce is None else encode_event(announce, self.settings)
        raise WaitingForEvent(Suspended(waiter, told, timeout))


class RunFace:
    """Everything behind a context outside of a step: a run seen by its caller."""

    def __init__(
        self, store: Store, run_id: str, state_class: type[BaseModel] | None, send: Callable[[Event, str | None], None]
    ) -> None:
        """Args:
        store: Where the run lives.
        run_id: The run.
        state_class: Model of the state.
        send: Sends an event into the run: (event, step name or None).
        """
        self.run_id = run_id
        self.settings: Settings = store.settings
        self.store = store
        self.send = send
        self.state = StateStore(store, run_id, run_id, state_class or DictState, None)


class Context(StepContextMarker, Generic[StateT]):
    """Declare a parameter of this type in a step to get the step's context; `Context[MyState]` types its state."""

    def __init__(self, face: StepFace | RunFace) -> None:
        self._face = face

    def _step(self, method: str) -> StepFace:
        if isinstance(self._face, StepFace):
            return self._face
        raise ContextStateError(
            f"Context.{method}() belongs to a running step, but this is the context of run {self._face.run_id!r} as "
            "its caller sees it. Call it on the ctx parameter of a step."
        )

    @staticmethod
    def get_step_context() -> Context[Any]:
        """The context of the step that is being executed, without declaring a parameter.

        Raises:
            WorkflowRuntimeError: Not called from within a step.
        """
        context = current_context.get()
        if context is None:
            raise WorkflowRuntimeError("Context.get_step_context() was called outside of a step; there is no context.")
        return context

    @property
    def store(self) -> Any:
        """The run's state, shared by all its steps: `get`, `set`, `edit_state`, `clear`.

        In an `async def` step and outside of steps its methods are awaited; in a plain `def` step they block.
        """
        return self._face.state

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._face.work.run_id if isinstance(self._face, StepFace) else self._face.run_id

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1: failures + losses + 1."""
        return self._step("attempt").work.attempt

    @property
    def idempotency_key(self) -> str:
        """Equal in all attempts of this step execution, unique among all others: for effects outside of umbel."""
        work = self._step("idempotency_key").work
        return f"{work.run_id}/{work.work_id}"

    def send_event(self, message: Event, step: str | None = None) -> None:
        """Emit an event now, to all accepting steps or to one.

        In a step it is on its way within milliseconds, also when the step fails later. *Promise:* a later attempt that
        sends the same again delivers nothing twice.

        Raises:
            WorkflowRuntimeError: There is no such step, or it does not accept this event.
        """
        self._face.send(message, step)

    def write_event_to_stream(self, ev: Event | None) -> None:
        """Publish an event to whoever streams the run. *Promise:* in order; attempts are not merged."""
        if ev is not None:
            face = self._step("write_event_to_stream")
            face.emissions.publish(encode_event(ev, face.settings))

    def collect_events(
        self, ev: Event, expected: Sequence[type[Event]], buffer_id: str | None = None
    ) -> list[Event] | None:
        """Add `ev` to a buffer of this step; the call that completes the set gets it, in the order of `expected`.

        *Promise:* one atomic exchange with Redis (it blocks, at most about a second when Redis is slow). A set goes to
        exactly one step execution, also after a crash; no step is executed again because another event arrived;
        surplus events stay for the next set.
        """
        return self._step("collect_events").collect(ev, expected, buffer_id)

    async def wait_for_event(
        self,
        event_type: type[EventT],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: dict[str, Any] | None = None,
        timeout: float | None = 2000,
    ) -> EventT:
        """Wait for an event from outside; the step holds no slot and no process meanwhile.

        The step is executed again from the top when the event is there, so what stands before the wait happens
        twice. `waiter_event` is published once, when the wait begins.

        Raises:
            asyncio.TimeoutError: Nothing came within `timeout` seconds; raised in the repeated execution.
        """
        face = self._step("wait_for_event")
        return cast(EventT, face.wait(event_type, waiter_event, waiter_id, requirements or {}, timeout))

    def retry_info(self) -> RetryInfo:
        """What came before this attempt."""
        work = self._step("retry_info").work
        if work.last_failed_at is None or work.last_error is None:
            return RetryInfo()
        elapsed = max(0.0, (work.claimed_at - work.first_attempt_at) / 1000)
        error = decode_exception(json.loads(work.last_error))
        return RetryInfo(work.failures, elapsed, error, datetime.fromtimestamp(work.last_failed_at / 1000, UTC))


def check_target(plan: Plan, envelope: Envelope, target: str | None) -> None:
    """Refuse a target that cannot take the event.

    Raises:
        WorkflowRuntimeError: There is no such step, or it does not accept this event.
    """
    if target is None:
        return
    step = plan.by_name.get(target)
    if step is None:
        raise WorkflowRuntimeError(
            f"Step {target} does not exist in workflow {plan.workflow!r}. Its steps: {', '.join(plan.by_name)}."
        )
    if not step.accepts_event(envelope):
        accepted = ", ".join(name.rpartition(".")[2] for name in step.accepts)
        raise WorkflowRuntimeError(
            f"Step {target} does not accept event of type {envelope.type.rpartition('.')[2]}. It accepts: {accepted}."
        )
