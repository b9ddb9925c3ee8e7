"""`Context`: what a step may do besides returning an event, and what a caller may do with a run from outside.

One class with three faces: before a run it holds the initial state; in a step it emits, collects and waits
(`step_context.py`); for the caller of a run it reads the state, sends events and takes snapshots (`run_context.py`). A
method called on the wrong face raises `ContextStateError`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Generic, Self, cast

from pydantic import BaseModel
from typing_extensions import TypeVar

from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.model.work_item import OnParentEnd
from ..events.codec import encode_event
from ..events.event import Event, SleepEndedEvent, StartEvent
from ..events.exceptions import decode_exception
from ..events.serializers import BaseSerializer
from ..retry.policy import RetryInfo
from ..state.store import DictState
from ..steps.signature import StepContextMarker
from ..workflow.definition import WorkflowDefinition
from .children import ChildRun
from .faces import Face, Faces
from .run_context import Beginning, NewRunContext
from .step_context import SentEvent, StepContext

StateT = TypeVar("StateT", bound=BaseModel, default=DictState)
EventT = TypeVar("EventT", bound=Event)
T = TypeVar("T")

#: The context of the step that this thread or task executes.
current_context: ContextVar[Context[Any] | None] = ContextVar("umbel_step_context", default=None)


class Context(Faces, StepContextMarker, Generic[StateT]):
    """Declare a parameter of this type in a step to get the step's context; `Context[MyState]` types its state.

    Outside of steps, `Context(workflow)` creates a context for a new run: set initial values in its `store`, then call
    `workflow.run(ctx=ctx)`. From then on it is the context of that run, the same as `handler.ctx`.

    Args:
        workflow: What will be run.
        previous_context: The result of `to_dict()` to continue from.
        serializer: The serializer that wrote it; by default the workflow's, else JSON.

    Raises:
        ContextSerdeError: `previous_context` is damaged, of another workflow, or newer than this version of umbel.
    """

    def __init__(
        self,
        workflow: WorkflowDefinition,
        previous_context: Mapping[str, Any] | None = None,
        serializer: BaseSerializer | None = None,
    ) -> None:
        if previous_context is None:
            self._face: Face = NewRunContext(workflow)
        else:
            self._face = NewRunContext.load(workflow, previous_context, serializer)

    @classmethod
    def over(cls, face: Face) -> Self:
        """A context with this implementation; for internal use."""
        context = cls.__new__(cls)
        context._face = face
        return context

    @classmethod
    def from_dict(
        cls, workflow: WorkflowDefinition, data: Mapping[str, Any], serializer: BaseSerializer | None = None
    ) -> Self:
        """A context that continues from a snapshot: `workflow.run(ctx=Context.from_dict(workflow, data))`.

        It starts a new run; the original run is not changed. Unfinished work continues and is executed at least once.
        If the new run gets a start event or keyword arguments, only the state is used.

        Raises:
            ContextSerdeError: The data are damaged, of another workflow, or newer than this version of umbel.
        """
        return cls(workflow, data, serializer)

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

    # -- in a step -------------------------------------------------------------------------------------------------

    def send_event(self, message: Event, step: str | None = None) -> SentEvent | None:
        """Emit an event now, to all accepting steps or to one.

        In a step the event is delivered within milliseconds, even if the step fails later. *Promise:* a later attempt
        that sends the same event again delivers nothing twice.

        Returns:
            In a step, an object whose `cancel()` withdraws the event; None outside of steps.

        Raises:
            WorkflowRuntimeError: There is no such step, or it does not accept this event.
            ContextStateError: There is no run yet.
        """
        if isinstance(self._face, NewRunContext):
            raise self._misplaced("send_event", "Start the run first, or send with handler.send_event().")
        return self._face.send(message, step)

    def cancel_step(
        self,
        step: str,
        *,
        where: Mapping[str, Any] | None = None,
        downstream: bool = False,
        instead: Event | None = None,
        reason: str = "",
    ) -> int:
        """Cancel the executions of a step that have not ended, while the run continues.

        A queued execution does not begin. A running one can no longer record an outcome: an `async def`
        step is cancelled, a plain one keeps running without effect. Child runs that it waits for are cancelled. Joins
        treat it as a branch that returned None. No `@catch_error` step is called. A `StepCancelled` is published; it
        is one of umbel's own events. The cost grows with the run's live work; blocks for a few exchanges with Redis.

        *Promise:* each execution either has ended before, with everything that follows from it, or is cancelled at
        once. Executions that begin afterwards are not cancelled. A repeated attempt of the calling step cancels again.

        Args:
            step: The step. The calling execution is not cancelled.
            where: Only executions whose event has these field values.
            downstream: Also the work that resulted from ended executions of the step, as far as the journal reaches
                back.
            instead: An event that is emitted in place of each cancelled execution, as if the step had returned it.
            reason: For the stream.

        Returns:
            How many executions were cancelled.

        Raises:
            WorkflowStepDoesNotExistError: There is no such step.
            UnserializableValue: No event can have a value of `where`.
            WorkflowRuntimeError: The run has ended, or an argument is not what it should be.
        """
        return self._step("cancel_step").cancel_step(step, where or {}, downstream, instead, reason)

    def write_event_to_stream(self, ev: Event | None) -> None:
        """Publish an event to the readers of the run's stream. *Promise:* in order; attempts are not merged."""
        if ev is not None:
            face = self._step("write_event_to_stream")
            face.emissions.publish(encode_event(ev, face.settings))

    def collect_events(
        self,
        ev: Event,
        expected: Sequence[type[Event]],
        buffer_id: str | None = None,
        *,
        key: Any = None,
        within_seconds: float | None = None,
    ) -> list[Event] | None:
        """Add `ev` to a buffer of this step; the call that completes the set gets it, in the order of `expected`.

        *Promise:* one atomic exchange with Redis (it blocks, at most about a second when Redis is slow). A set goes to
        exactly one step execution, even after a crash; no step is executed again because another event arrived;
        surplus events stay for the next set.

        Args:
            ev: The event.
            expected: The classes of a set. Events count by their exact class, not by that of a parent.
            buffer_id: Names one of several buffers.
            key: Instead of `buffer_id`: a value that the events of a set share. Any JSON value except None.
            within_seconds: How long after its first event a set may be completed. An incomplete set is then dropped,
                with a `JoinExpired` on the stream and to a step that accepts it.

        Raises:
            UnserializableValue: The key cannot be stored.
            WorkflowRuntimeError: An argument is not what it should be.
        """
        return self._step("collect_events").collect(ev, expected, buffer_id, key, within_seconds)

    async def wait_for_event(
        self,
        event_type: type[EventT],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: dict[str, Any] | None = None,
        timeout: float | None = 2000,
    ) -> EventT:
        """Wait for an event from outside; the step holds no slot and no process meanwhile.

        When the event has arrived, the step is executed again from the top, so code before the wait runs
        twice. `waiter_event` is published once, when the wait begins.

        Raises:
            asyncio.TimeoutError: No event arrived within `timeout` seconds; raised in the repeated execution.
            UnserializableValue: No event can have a value of `requirements`.
            WorkflowRuntimeError: `waiter_id` is not text, or another argument is not what it should be.
        """
        face = self._step("wait_for_event")
        return cast(EventT, face.wait(event_type, waiter_event, waiter_id, requirements or {}, timeout))

    async def sleep(self, seconds: float) -> None:
        """Wait for some time; the step holds no slot and no process meanwhile, and a crash does not prolong the wait.

        When the time is over, the step is executed again from the top, as after `wait_for_event`. The run's timeout
        keeps running.

        Raises:
            WorkflowRuntimeError: `seconds` is not a valid duration.
        """
        with suppress(TimeoutError):
            self._step("sleep").wait(SleepEndedEvent, None, None, {}, seconds)

    async def once(self, key: str, function: Callable[[], Awaitable[T] | T]) -> T:
        """What `function` returns, computed once in this step, however often the step is executed.

        *Promise:* once the value is stored in Redis, no further execution of this step calls the function again,
        neither after a wait nor after a failure or a crash. The value is deleted when the step has ended. After a crash
        before the value is stored, the function is called again: pass `ctx.idempotency_key` to the services it calls.

        Args:
            key: Names the value within this step; the same in each execution.
            function: Plain or `async`; exceptions are not stored. Its value must be JSON or a pydantic model, and is
                returned as if it had been read from JSON.

        Raises:
            UnserializableValue, PayloadTooLarge: The value cannot be stored.
            WorkflowRuntimeError: The key is not a non-empty string, or the function calls `once` with the same key.
        """
        return await self._step("once").memos.once(key, function)

    async def run(
        self,
        workflow: WorkflowDefinition | ChildRun,
        start_event: StartEvent | None = None,
        *,
        name: str | None = None,
        id: str | None = None,
        on_parent_end: OnParentEnd = "cancel",
        timeout_seconds: float | None = None,
        session: str | None = None,
        **fields: Any,
    ) -> Any:
        """Run a workflow as a child of this run, and wait for its result.

        The child is a separate run: any worker executes it, and it is listed, streamed and limited like any other.
        The step holds no slot and no process while it waits; it is executed again from the top when the child has
        ended.

        *Promise:* one child for each step execution and name, whatever is killed or retried meanwhile. It is started
        when the step's wait is recorded, and its end is recorded here once. If the parent is cancelled, fails or times
        out, the child is cancelled; also if the parent completes before it, unless `on_parent_end` says otherwise.

        Args:
            workflow: The child's workflow, which the workers must know; or the result of `start()` of its class,
                to which the other arguments are added.
            start_event: Its start event; by default it is made from the keyword arguments.
            name: Names the child within this step execution; the same whenever the step is executed. By default
                children are counted in the order in which the step runs them; those that run at the same time in tasks
                of the step are distinguished by their start events.
            id: The child's run id; by default it is derived from this run's id.
            on_parent_end: What happens to a child that is still running when this run ends. "cancel": it is cancelled.
                "leave": it continues. "wait": this run completes when the child has ended; a run that fails, is
                cancelled or times out cancels it.
            timeout_seconds: Its time limit; by default that of `workflow`.
            session: The session to which the child belongs; it waits for its turn there. If the start event declares a
                field `session`, the argument is that field instead.
            **fields: Fields of the start event.

        Returns:
            As `await workflow.run(…)`.

        Raises:
            ChildFailed: The child did not complete; its error is the `__cause__`.
            WorkflowRuntimeError: The start event cannot be made; an argument is invalid; two children have the same
                name; the child's session waits for the end of this run.
        """
        child = workflow if isinstance(workflow, ChildRun) else ChildRun(workflow)
        known = isinstance(child.workflow, WorkflowDefinition)
        if session is not None and known and "session" in child.workflow.start_event_class.model_fields:
            fields["session"], session = session, None
        given: dict[str, Any] = {"start_event": start_event, "name": name, "id": id, "session": session}
        given |= {
            "timeout_seconds": timeout_seconds,
            "on_parent_end": None if on_parent_end == "cancel" else on_parent_end,
        }
        given = {key: value for key, value in given.items() if value is not None}
        child = replace(child, fields=child.fields | fields, **given)
        return await self._step("run").children.run(child)

    async def run_all(
        self, children: Iterable[ChildRun], limit: int | None = None, *, return_exceptions: bool = False
    ) -> list[Any]:
        """Run many child runs and wait for all results, in the order of `children`. Otherwise as `run`.

        Args:
            children: What is run: `[Summarize.start(page=page) for page in pages]`.
            limit: How many of them may run at a time; None is no limit.
            return_exceptions: Return the `ChildFailed` of a child in place of its result.

        Raises:
            ChildFailed: One of them did not complete; raised when all have ended.
        """
        face = self._step("run_all")
        return await face.children.run_all(children, limit, return_exceptions=return_exceptions)

    def retry_info(self) -> RetryInfo:
        """The failures before this attempt."""
        work = self._step("retry_info").work
        if work.last_failed_at is None or work.last_error is None:
            return RetryInfo()
        elapsed = max(0.0, (work.claimed_at - work.first_attempt_at) / 1000)
        error = decode_exception(json.loads(work.last_error))
        return RetryInfo(work.failures, elapsed, error, datetime.fromtimestamp(work.last_failed_at / 1000, UTC))

    # -- for the caller of a run -----------------------------------------------------------------------------------

    def to_dict(self, serializer: BaseSerializer | None = None, *, include_state: bool = True) -> dict[str, Any]:
        """A snapshot of the run: its state, and if it has not ended (or was cancelled) what it needs to continue.
        Before a run: a snapshot of what it will begin with.

        It is JSON in the version 2 format of LlamaIndex Workflows. Its cost depends on the run's live work and state,
        not on how long it has been running. Blocks for a few exchanges with Redis. *Promise:* as of one instant;
        the run is only read.

        Args:
            serializer: Writes events and state; by default the workflow's, else JSON. Use a `PickleSerializer` only
                for data that you store yourself.
            include_state: Whether to include the state; a run that begins from a snapshot without it has an empty one.

        Raises:
            ContextStateError: This is the context of a step.
            ValueError: The serializer cannot write a value; the message names it.
        """
        if isinstance(self._face, StepContext):
            raise self._misplaced("to_dict", "It belongs to a run that was started: call it on handler.ctx.")
        return self._face.to_dict(serializer, include_state=include_state)

    async def running_steps(self) -> list[str]:
        """Names of the steps that hold a slot: being executed or about to be.

        Raises:
            ContextStateError: There is no run yet, or this is the context of a step.
        """
        return await self._beside("running_steps").running_steps()

    def stream_events(self) -> AsyncIterator[Event]:
        """The run's events as they are published, including umbel's own: `handler.stream_events(expose_internal=True)`.

        Raises:
            ContextStateError: There is no run yet, or this is the context of a step.
        """
        return self._beside("stream_events").stream()

    async def get_result(self) -> Any:
        """The run's result; deprecated: await the handler."""
        warnings.warn("Context.get_result() is deprecated: await the handler.", DeprecationWarning, stacklevel=2)
        return await self._beside("get_result").result()

    # -- how a run begins with a context ---------------------------------------------------------------------------

    def beginning_of_run(self, workflow: WorkflowDefinition, *, has_new_input: bool) -> Beginning:
        """What a run with this context begins with.

        Raises:
            ContextStateError: This is the context of a step, or its run is still running.
            ContextSerdeError: The context holds unfinished work of another workflow.
        """
        if isinstance(self._face, StepContext):
            raise self._misplaced("run", "A step that starts a run of its own gives it a Context(workflow) of its own.")
        return self._face.beginning(workflow, has_new_input=has_new_input)
