"""Call a step's function: bind its inputs, make its resources, check what it returned."""

from __future__ import annotations

import asyncio
import inspect
import json
import weakref
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any

from ...orchestration.model.envelope import Envelope
from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.model.plan import Inputs, Plan, StepKind, StepPlan
from ...orchestration.model.work_item import FannedOut, Grouped, Outcome, Returned, Work
from ...orchestration.store.verbs import Store
from ..context.ctx import Context, current_context
from ..context.step_context import StepContext
from ..context.tracing import tracing
from ..context.waits import Waits, comes_from_wait
from ..events.codec import decode_event, encode_event
from ..events.event import CollectionReleaseEvent, Event, StepFailedEvent
from ..steps.decorators import StepConfig
from ..workflow.definition import resources_of
from ..workflow.registry import Registered
from .calling import Calling


class CannotBind(BaseException):
    """The code here cannot be called with the events of a work item. The step does not fail: its work is parked.

    Attributes:
        lacks: What is missing here, see `Registered.has`.
    """

    def __init__(self, lacks: str, why: str) -> None:
        super().__init__(why)
        self.lacks = lacks


async def input_events(
    work: Work, registered: Registered, store: Store, causes: list[str] | None = None
) -> list[Event]:
    """The input events of a work item, decoded: one, one per slot of a join, or the members of a fan-in.

    Args:
        work, registered, store: The work item, its workflow here, and where members are read.
        causes: A list to which the spans that made the events and answers are added, if known.

    Raises:
        CannotBind: The class of an event, or of an answer to a wait of the step, is not loaded here.
        EventMismatch: An event does not match its class.
    """
    return [decode_event(envelope, registered.events) for envelope in await _inputs(work, registered, store, causes)]


async def _inputs(
    work: Work, registered: Registered, store: Store, causes: list[str] | None = None
) -> Sequence[Envelope]:
    envelopes = work.bound if work.members is None else await store.members(work)
    # Answers are checked too: if their class was renamed, the step would wait again and the answers would be lost.
    answers = [answer for name, answer in work.answers.items() if answer is not None and not name.startswith("child|")]
    if causes is not None:
        every = (*envelopes, *filter(None, work.answers.values()))
        causes += dict.fromkeys(event.trace for event in every if event.trace)
    for name in {envelope.type for envelope in (*envelopes, *answers)}:
        if not registered.events.knows(name):
            raise CannotBind(name, f"the class of its event {name!r} is not loaded here")
    return envelopes


async def step_failed_event(
    work: Work, registered: Registered, error: Exception, elapsed_seconds: float, store: Store
) -> StepFailedEvent:
    """The event for a `@catch_error` handler."""
    inputs = await input_events(work, registered, store)
    gathered = work.members is not None or len(inputs) > 1
    return StepFailedEvent(
        step_name=work.step,
        input_event=CollectionReleaseEvent(events=inputs, stream_id=work.scope_id or "") if gathered else inputs[0],
        exception=error,
        attempts=work.failures + 1,
        elapsed_seconds=elapsed_seconds,
        failed_at=datetime.now(UTC),
    )


async def call_step(work: Work, registered: Registered, behind: StepContext, store: Store, calling: Calling) -> Outcome:
    """Execute user code once and return its outcome.

    Args:
        work: The claimed work item.
        registered: Its workflow here.
        behind: What the step's context gives access to.
        store: For the members of a fan-in.
        calling: Calls the step's function and the factories of its resources.

    Raises:
        CannotBind: The class of an event or answer is not loaded, or the step here does not take the work's events.
        EventMismatch: An event does not match its class.
        Exception: What the step raised.
    """
    config = registered.steps[work.step]
    traced = tracing()
    causes: list[str] | None = None if traced is None else []
    envelopes = await _inputs(work, registered, store, causes)
    order = _order(work, behind.emissions.plan, registered.plan.by_name[work.step], envelopes)
    # A large group is stored as members too, but its first event is also bound; an ungrouped fan-in has none bound.
    if work.members is not None and not work.bound and (by := config.event_parameters[0].by) is not None:
        return _grouped(envelopes, by)
    context: Context[Any] = Context.over(behind)
    arguments = _bind(config, [decode_event(envelopes[at], registered.events) for at in order], context)
    function = registered.functions[work.step]

    async def call() -> Any:
        await add_resources()
        current_context.set(context)
        task = asyncio.current_task()
        assert task is not None
        behind.wait_names.main = behind.children.main = weakref.ref(task)
        if traced is None or causes is None:
            return await function(**arguments)
        with traced.attempt(work, causes) as behind.emissions.trace:
            return await function(**arguments)

    def call_plain() -> Any:
        current_context.set(context)
        if traced is None or causes is None:
            return function(**arguments)
        with traced.attempt(work, causes) as behind.emissions.trace:
            return function(**arguments)

    async def add_resources() -> None:
        if config.resources:
            manager = resources_of(registered.workflow)
            arguments.update(await manager.values(config.resources, calling.plain))

    try:
        if config.is_async:
            returned = await calling.awaited(call)
        else:
            if config.resources:
                await calling.awaited(add_resources)
            returned = await calling.plain(call_plain)
            if inspect.isawaitable(returned):
                awaitable: Awaitable[Any] = returned
                returned = await calling.awaited(lambda: awaitable)
        if (swallowed := behind.waits.swallowed()) is not None:
            return swallowed
        behind.waits.warn_of_left()
    except Waits as waiting:
        if not behind.waits.is_own(waiting):
            raise WorkflowRuntimeError(
                f"Step {work.step!r} of run {work.run_id!r} waits with the ctx of another step execution, which would "
                "not get the answer. Use the ctx that the step is called with."
            ) from None
        return waiting.outcome
    except Exception as error:
        if (swallowed := behind.waits.swallowed()) is not None and comes_from_wait(error):
            return swallowed
        raise
    finally:
        behind.waits.close()
    outcome = _judge(config, returned, behind)
    if behind.writes_back:
        await calling.awaited(behind.find_changes)
    return outcome


def _grouped(events: Sequence[Envelope], by: str) -> Grouped:
    """Events grouped by the value of a field, in order of the first occurrence of each value."""
    groups: dict[str, list[Envelope]] = {}
    for event in events:
        groups.setdefault(json.dumps(event.field(by), sort_keys=True), []).append(event)
    return Grouped(tuple((key, tuple(group)) for key, group in groups.items()))


def _order(work: Work, plan: Plan, here: StepPlan, envelopes: Sequence[Envelope]) -> Sequence[int]:
    """The work item's events in the order of the parameters that take them, as positions.

    Raises:
        CannotBind: The work was made for a step that takes other events than the step here.
    """
    planned = plan.by_name.get(work.step, here)
    kind = planned.kind if work.members is None else "collect"
    order = here.binding(kind, envelopes)
    if order is not None:
        return order
    by_class = {envelope.type: envelope for envelope in envelopes}
    inputs = Inputs(work.step, kind, tuple(by_class.values() if kind == "collect" else envelopes))
    raise CannotBind(
        inputs.to_lacked(),
        f"its events were made for {work.step}({_shown(kind, [event.type for event in inputs.events])}), but here it "
        f"is {work.step}({_shown(here.kind, here.accepts)})",
    )


def _shown(kind: StepKind, names: Sequence[str]) -> str:
    short = [name.rpartition(".")[2] for name in names]
    if kind == "all_of":
        return ", ".join(short)
    return f"list[{' | '.join(short)}]" if kind == "collect" else " | ".join(short)


def _bind(config: StepConfig, events: list[Event], context: Context[Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if config.kind == "collect":
        arguments[config.event_parameters[0].name] = events
    else:
        for parameter, event in zip(config.event_parameters, events, strict=True):
            arguments[parameter.name] = event
    if config.context_parameter is not None:
        arguments[config.context_parameter] = context
    return arguments


def _judge(config: StepConfig, returned: Any, behind: StepContext) -> Outcome:
    """The outcome for what a step returned; raises if the step may not return that, which fails the step."""
    if returned is None:
        return Returned(None)
    if isinstance(returned, list) and config.list_returns:
        for element in returned:
            if not isinstance(element, Event):
                raise WorkflowRuntimeError(
                    f"Step function {config.name} returned a list with {type(element).__name__} in it instead of only "
                    "Event instances."
                )
        trace = behind.emissions.trace
        return FannedOut(tuple(encode_event(event, behind.settings).marked(trace) for event in returned))
    if not isinstance(returned, Event):
        hint = " Annotate the return type as list[...] to fan out." if isinstance(returned, list) else ""
        raise WorkflowRuntimeError(
            f"Step function {config.name} returned {type(returned).__name__} instead of an Event instance.{hint}"
        )
    only_in_list = type(returned) in config.list_returns and type(returned) not in config.single_returns
    if only_in_list:
        name = type(returned).__name__
        raise WorkflowRuntimeError(
            f"Step function {config.name} returned a bare {name}, which its annotation allows only inside a list. "
            f"Return [{name}(...)], or annotate list[{name}] | {name}."
        )
    event = encode_event(returned, behind.settings).marked(behind.emissions.trace)
    return Returned(event, ends=not config.is_child)
