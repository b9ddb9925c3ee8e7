"""Spans of steps for listeners of LlamaIndex's own instrumentation, such as OpenInference.

Starting a run is a span in the process that starts it. Each execution of a step is a child of that span, in the worker.
The context that the handlers propagate from one to the other is kept in the run's options.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import Dispatcher, active_instrument_tags, instrument_tags
from llama_index_instrumentation.event_handlers import NullEventHandler
from llama_index_instrumentation.events.span import SpanDropEvent
from llama_index_instrumentation.span import active_span_id
from llama_index_instrumentation.span_handlers import NullSpanHandler

from ..context.ctx import Context, current_context
from ..context.step_context import StepContext
from ..context.waits import Waits
from ..events.event import Event, StopEvent
from .span_events import SpanCancelledEvent, WorkflowRunOutputEvent, WorkflowStepOutputEvent

_DISPATCHER: Dispatcher = get_dispatcher("workflows.runtime.types.step_function")
#: Key in a run's options for the span of its start and the propagated context.
_KEPT = "llama_index_spans"
#: Maximum characters of an abbreviated event.
_LONGEST = 200
_NO_ARGUMENTS = inspect.signature(lambda: None).bind()


class Spans:
    """The `Instrumentation` of workflows that were written for LlamaIndex. Without listeners it does nothing."""

    def run_options(self, workflow: object) -> dict[str, Any]:
        """Record the span of the start; returns its id and the context that the handlers propagate to the steps."""
        if not _is_listened_to():
            return {}
        with _span(workflow, "run", _NO_ARGUMENTS) as span:
            carried = _DISPATCHER.capture_propagation_context()
        return {_KEPT: {"id": span.id, "carried": json.loads(json.dumps(carried, default=str))}}

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, wrapped so that each call is a span."""
        workflow, name = getattr(function, "__self__", None), function.__name__

        @functools.wraps(function)
        async def awaited(**arguments: Any) -> Any:
            if not _is_listened_to():
                return await function(**arguments)
            bound = inspect.signature(function).bind(**arguments)
            with _below_the_start(arguments), _span(workflow, name, bound) as span:
                span.output = await function(**arguments)
                return span.output

        @functools.wraps(function)
        def plain(**arguments: Any) -> Any:
            if not _is_listened_to():
                return function(**arguments)
            bound = inspect.signature(function).bind(**arguments)
            with _below_the_start(arguments), _span(workflow, name, bound) as span:
                span.output = function(**arguments)
                return span.output

        return awaited if inspect.iscoroutinefunction(function) else plain


def _is_listened_to() -> bool:
    dispatcher = _DISPATCHER
    while True:
        handlers = (*dispatcher.event_handlers, *dispatcher.span_handlers)
        if any(not isinstance(each, NullEventHandler | NullSpanHandler) for each in handlers):
            return True
        if not dispatcher.propagate:
            return False
        dispatcher = dispatcher.parent


class _Span:
    output: Any = None

    def __init__(self, span_id: str) -> None:
        self.id = span_id


@contextmanager
def _span(workflow: object, name: str, arguments: inspect.BoundArguments) -> Iterator[_Span]:
    # A step that is a free function has no workflow here.
    span = _Span(f"{name if workflow is None else f'{type(workflow).__name__}.{name}'}-{uuid4()}")
    about: dict[str, Any] = {"id_": span.id, "bound_args": arguments, "instance": workflow}
    parent = active_span_id.get()
    token = active_span_id.set(span.id)
    _DISPATCHER.span_enter(**about, parent_id=parent, tags=active_instrument_tags.get())
    try:
        yield span
    except Waits:
        _DISPATCHER.span_exit(**about, result=None)
        raise
    except asyncio.CancelledError:
        _DISPATCHER.event(SpanCancelledEvent(reason="step cancelled"))
        _DISPATCHER.span_exit(**about, result=None)
        raise
    except BaseException as error:
        _DISPATCHER.event(SpanDropEvent(span_id=span.id, err_str=str(error)))
        _DISPATCHER.span_drop(**about, err=error)
        raise
    else:
        for event in _said_of(span.output):
            _DISPATCHER.event(event)
        _DISPATCHER.span_exit(**about, result=span.output)
    finally:
        active_span_id.reset(token)


@contextmanager
def _below_the_start(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, spans are children of the run's start and have the tags of the run and of the step's input."""
    events = [each for each in arguments.values() if isinstance(each, Event)]
    tags = {"llamaindex.step.input_event": type(events[0]).__name__} if events else {}
    if events:
        tags["llamaindex.step.input_summary"] = _in_short(events[0])
    kept: dict[str, Any] = {}
    context: Context[Any] | None = current_context.get()
    if context is not None and isinstance(context._face, StepContext):
        work = context._face.work
        tags["llamaindex.run_id"] = work.run_id
        if _KEPT in work.options:
            kept = json.loads(work.options).get(_KEPT) or {}
    _DISPATCHER.restore_propagation_context(kept.get("carried") or {})
    token = active_span_id.set(kept.get("id"))
    try:
        with instrument_tags({**active_instrument_tags.get(), **tags}):
            yield
    finally:
        active_span_id.reset(token)


def _said_of(output: Any) -> Iterator[BaseEvent]:
    if isinstance(output, Event):
        yield WorkflowStepOutputEvent(output=_in_short(output))
    if isinstance(output, StopEvent):
        yield WorkflowRunOutputEvent(output=_in_short(output))


def _in_short(event: Event) -> str:
    text = repr(event)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
