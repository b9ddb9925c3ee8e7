"""Call a step's function: bind its inputs, make its resources, judge what it returned."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from billiard.common import terminate_handler_fired

from ...orchestration.model.errors import StepTimeoutError, WorkflowRuntimeError
from ...orchestration.model.work_item import FannedOut, Outcome, Returned, Work
from ...orchestration.store.blocking import BlockingStore as Store
from ..context.ctx import Context, current_context
from ..context.step_context import StepContext, WaitingForEvent
from ..events.codec import decode_event, encode_event
from ..events.event import CollectionReleaseEvent, Event, StepFailedEvent
from ..resources.resolution import drive, drive_on_loop
from ..steps.decorators import StepConfig
from ..workflow.registry import Registered
from .calling import Calling, OnCancel, StepExit, over
from .isolated_context import Isolated
from .running import Abandoned


class InputUnknown(BaseException):
    """The class of an event that a step is for is not loaded here. No failure of the step: its work is parked.

    Attributes:
        event: Its wire name.
    """

    def __init__(self, event: str) -> None:
        super().__init__(f"no event class {event!r} is loaded in this process")
        self.event = event


def input_events(work: Work, registered: Registered, store: Store) -> list[Event]:
    """The events a work item is for, decoded: one, one per slot of a join, or the members of a fan-in.

    Raises:
        InputUnknown: The class of one of them is not loaded here.
        EventMismatch: One does not fit its class.
    """
    envelopes = work.bound if work.members is None else store.members(work)
    for name in {envelope.type for envelope in envelopes}:
        if not registered.events.knows(name):
            raise InputUnknown(name)
    return [decode_event(envelope, registered.events) for envelope in envelopes]


def step_failed_event(
    work: Work, registered: Registered, error: Exception, elapsed_seconds: float, store: Store
) -> StepFailedEvent:
    """What a `@catch_error` handler is given."""
    inputs = input_events(work, registered, store)
    gathered = work.members is not None or len(inputs) > 1
    return StepFailedEvent(
        step_name=work.step,
        input_event=CollectionReleaseEvent(events=inputs, stream_id=work.scope_id or "") if gathered else inputs[0],
        exception=error,
        attempts=work.failures + 1,
        elapsed_seconds=elapsed_seconds,
        failed_at=datetime.now(UTC),
    )


def call_step(
    work: Work,
    registered: Registered,
    face: StepContext,
    store: Store,
    loop: Callable[[], asyncio.AbstractEventLoop],
    on_cancel: Callable[[Callable[[], None] | None], None],
) -> Outcome:
    """Execute user code once and say what came of it. Blocks the calling thread until then.

    Args:
        work: The claimed work item.
        registered: Its workflow here.
        face: What the step's context gives access to.
        store: For the members of a fan-in.
        loop: The event loop for async steps.
        on_cancel: Takes a function that stops the call from another thread, None when there is nothing to stop.

    Raises:
        Exception: Whatever the step raised.
    """
    config = registered.steps[work.step]
    context: Context[Any] = Context.over(face)
    arguments = _bind(config, input_events(work, registered, store), context)
    calling = Calling(work.step, work.run_id, timeout_seconds=config.timeout_seconds, loop=loop, on_cancel=on_cancel)
    try:
        if config.resources:
            arguments |= drive(registered.workflow.resource_manager.making(config.resources, loop), calling.make)
        function = partial(registered.functions[work.step], **arguments)
        current_context.set(context)
        if config.is_async:
            returned = calling.on_loop(function)
        else:
            returned = calling.here(function)
            if inspect.isawaitable(returned):
                awaitable: Awaitable[Any] = returned
                returned = calling.on_loop(lambda: awaitable)
    except WaitingForEvent as waiting:
        return waiting.suspended
    except SystemExit as exit:
        if type(exit) is not SystemExit or terminate_handler_fired():  # Celery and its pool stop workers with it
            raise
        raise StepExit(f"step {work.step!r} called sys.exit({exit.code!r})") from exit
    except (Exception, asyncio.CancelledError, Abandoned):
        raise
    except BaseException as ending:  # nobody further up would record it: the step would be executed again for ever
        raise StepExit(f"step {work.step!r} raised {ending!r}, which is no Exception") from ending
    return _judge(config, returned, face)


async def call_step_on_loop(
    work: Work,
    registered: Registered,
    face: StepContext,
    store: Store,
    on_cancel: OnCancel,
    exchanges: Executor,
) -> Outcome:
    """As `call_step` for an `async def` step, awaited on the running loop, within the current task.

    Args:
        work, registered, face, store, on_cancel: As there.
        exchanges: Threads for what blocks on Redis.

    Raises:
        Exception: Whatever the step raised.
    """
    loop = asyncio.get_running_loop()
    config = registered.steps[work.step]
    context: Context[Any] = Context.over(face)
    if work.members is None:
        events = input_events(work, registered, store)
    else:
        events = await loop.run_in_executor(exchanges, input_events, work, registered, store)
    arguments = _bind(config, events, context)

    async def call() -> Any:
        if config.resources:
            making = registered.workflow.resource_manager.making(config.resources, lambda: loop)
            arguments.update(await drive_on_loop(making))
        current_context.set(context)
        return await registered.functions[work.step](**arguments)

    async def body() -> Any:
        limit = None if config.timeout_seconds is None else asyncio.timeout(config.timeout_seconds)
        try:
            if limit is None:
                return await call()
            async with limit:
                return await call()
        except TimeoutError:
            if limit is not None and limit.expired():
                raise StepTimeoutError(over(work.step, work.run_id, config.timeout_seconds)) from None
            raise
        except (SystemExit, KeyboardInterrupt) as exit:  # asyncio would let these end the loop itself
            raise StepExit(f"step {work.step!r} raised {exit!r}") from exit
        except (Exception, asyncio.CancelledError, Abandoned, WaitingForEvent):
            raise
        except BaseException as ending:
            if not loop.is_running():  # Python closes what stood on a loop that is no more
                raise
            raise StepExit(f"step {work.step!r} raised {ending!r}, which is no Exception") from ending

    driver = asyncio.current_task()
    assert driver is not None
    state = _Cancelling(driver)
    on_cancel(lambda: state.ask(loop))
    try:
        returned = await Isolated(body())
    except WaitingForEvent as waiting:
        return waiting.suspended
    finally:
        on_cancel(None)
        state.settle()
    return _judge(config, returned, face)


class _Cancelling:
    """Cancels the step that a task is executing, and not what the task does afterwards."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._is_over = self._has_cancelled = False

    def ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel it; from any thread."""
        loop.call_soon_threadsafe(self._cancel)

    def settle(self) -> None:
        """The step has ended: the task goes on as if it had never been cancelled, unless somebody else did."""
        self._is_over = True
        if self._has_cancelled:
            self._task.uncancel()

    def _cancel(self) -> None:
        if not self._is_over and not self._has_cancelled:
            self._has_cancelled = True
            self._task.cancel()


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


def _judge(config: StepConfig, returned: Any, face: StepContext) -> Outcome:
    """The rules of what a step may return; a breach is a failure of the step."""
    if returned is None:
        return Returned(None)
    if isinstance(returned, list) and config.list_returns:
        for element in returned:
            if not isinstance(element, Event):
                raise WorkflowRuntimeError(
                    f"Step function {config.name} returned a list with {type(element).__name__} in it instead of only "
                    "Event instances."
                )
        return FannedOut(tuple(encode_event(event, face.settings) for event in returned))
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
    return Returned(encode_event(returned, face.settings))
