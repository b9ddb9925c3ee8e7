"""The links of an attempt's span: to the spans in which the events that led to it were emitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import umbel.telemetry
from support.eventually import eventually
from umbel import (
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    step,
)
from umbel.orchestration.model.envelope import Envelope
from umbel.tasks.context.tracing import trace_with

pytestmark = pytest.mark.usefixtures("runtime")


class Traces:
    def __init__(self) -> None:
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def of(self, run_id: str, step: str) -> list[ReadableSpan]:
        """Return the attempts of a step, oldest first."""
        found = [
            each
            for each in self.exporter.get_finished_spans()
            if each.name.endswith(f".{step}") and (each.attributes or {}).get("umbel.run_id") == run_id
        ]
        return sorted(found, key=lambda each: each.start_time or 0)


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    umbel.telemetry.install(traces.provider)
    yield traces
    trace_with(None)
    traces.provider.shutdown()


def ids(spans: list[ReadableSpan]) -> set[int]:
    return {each.context.span_id for each in spans}


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


class Part(Event):
    pass


class Done(Event):
    pass


class Extra(Event):
    pass


class Fan(Workflow):
    @step
    async def split(self, ctx: Context, ev: StartEvent) -> list[Part] | Extra:
        ctx.send_event(Extra())
        return [Part(n=n) for n in range(3)]

    @step
    def work(self, ev: Part) -> Done:
        return Done(n=ev.n)

    @step
    async def note(self, ev: Extra) -> None:
        pass

    @step
    async def gather(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


def test_an_attempt_is_linked_to_those_that_emitted_its_events(traces: Traces) -> None:
    handler = Fan().run()
    assert handler.result(20) == 3
    run_id = handler.run_id

    split, works, [gather] = traces.of(run_id, "split"), traces.of(run_id, "work"), traces.of(run_id, "gather")
    assert [len(split), len(works)] == [1, 3]
    assert all(linked(each) == ids(split) for each in works)
    assert linked(gather) == ids(works)
    [note] = eventually(lambda: traces.of(run_id, "note"), "what was sent is executed")
    assert linked(note) == ids(split)
    assert not linked(split[0])  # its parent is the start


class Answer(HumanResponseEvent):
    pass


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Answer)
        raise OSError("declined")

    @catch_error
    async def care(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result="cared for")


def test_answers_and_failures_are_causes_too(traces: Traces) -> None:
    handler = Asks().run()
    eventually(lambda: traces.of(handler.run_id, "ask"), "it waits")
    with traces.provider.get_tracer("application").start_as_current_span("request") as request:
        handler.send_event(Answer())
    assert handler.result(20) == "cared for"

    first, second = traces.of(handler.run_id, "ask")
    [care] = traces.of(handler.run_id, "care")
    assert not linked(first)
    assert linked(second) == {request.get_span_context().span_id}
    assert linked(care) == ids([second])


class Outer(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Part:
        return Part(n=1)

    @step
    async def second(self, ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=await ctx.run(Fan()))


def test_children_and_forks_belong_to_the_trace_of_their_run(traces: Traces) -> None:
    handler = Outer().run()
    assert handler.result(30) == 3
    beginning = next(iter(handler.history()))
    fork = handler.fork(beginning)
    assert fork.result(30) == 3

    [start] = [each for each in traces.exporter.get_finished_spans() if each.name == "start Outer"]
    spans = [each for each in traces.exporter.get_finished_spans() if each.name.partition(".")[0] in ("Outer", "Fan")]
    assert {(each.attributes or {})["umbel.run_id"] for each in spans} >= {handler.run_id, fork.run_id}
    assert {each.context.trace_id for each in spans} == {start.context.trace_id}
    assert len([each for each in spans if each.name == "Fan.work"]) == 6
    recorded = handler.fork(beginning, reuse="recorded")
    assert recorded.result(30) == 3
    assert not traces.of(recorded.run_id, "first")  # spans do not prevent its recorded outcome from being reused

    *_, resumed = traces.of(handler.run_id, "second")
    assert len(linked(resumed)) == 2  # the event, and the end of the child


def test_a_span_is_no_part_of_what_an_event_is() -> None:
    event = Envelope("shop.A", ("shop.B",), b'{"a":1}')
    marked = event.marked("00-" + "a" * 32 + "-" + "b" * 16 + "-01")

    read: Any = Envelope.from_bytes(marked.to_bytes())
    assert (read, read.trace, read.payload) == (event, marked.trace, event.payload)
    assert marked.content() == event.to_bytes() == event.content()
    assert event.marked("") is event
    assert Envelope.from_bytes(event.to_bytes()).trace == ""
