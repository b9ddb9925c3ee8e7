"""OpenTelemetry: one trace per run, one span per attempt, on any worker; with the SDK, exporting to memory."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span

import umbel.telemetry
from support.eventually import eventually
from support.processes.command_line import Cli
from umbel import Context, Event, Runtime, StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.errors import ConfigurationError
from umbel.retry_policy import stop_after_attempt, wait_fixed
from umbel.tasks.context.tracing import trace_with, tracing
from umbel.workers.embedded.redis_server import EmbeddedRedis


class Traced:
    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])

    def spans(self, run_id: str) -> list[ReadableSpan]:
        found = [
            each for each in self.exporter.get_finished_spans() if (each.attributes or {}).get("umbel.run_id") == run_id
        ]
        return sorted(found, key=lambda each: each.start_time or 0)

    def started(self) -> list[ReadableSpan]:
        return [each for each in self.exporter.get_finished_spans() if each.name.startswith("start ")]


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    umbel.telemetry.install(traced.provider, traced.meters)
    yield traced
    trace_with(None)
    traced.provider.shutdown()
    traced.meters.shutdown()


class Charged(Event):
    pass


class Order(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    async def charge(self, ctx: Context, ev: StartEvent) -> Charged:
        if ctx.attempt == 1:
            raise OSError("declined")
        with umbel_tracer().start_as_current_span("bank"):
            await asyncio.sleep(0)
        return Charged()

    @step
    def ship(self, ev: Charged) -> StopEvent:
        return StopEvent(result=format(get_current_span().get_span_context().trace_id, "032x"))


def umbel_tracer() -> Any:
    """The application's own tracer, whose spans are children of the attempt's span."""
    return current.provider.get_tracer("application")


current: Traced


@pytest.mark.usefixtures("runtime")
def test_all_attempts_of_a_run_are_spans_of_the_trace_that_started_it(traced: Traced) -> None:
    global current
    current = traced
    with traced.provider.get_tracer("application").start_as_current_span("request") as request:
        handler = Order().run()
    trace_id = handler.result(10)

    spans = traced.spans(handler.run_id)
    [start] = traced.started()
    assert [(each.name, each.status.status_code, (each.attributes or {})["umbel.attempt"]) for each in spans] == [
        ("Order.charge", StatusCode.ERROR, 1),
        ("Order.charge", StatusCode.UNSET, 2),
        ("Order.ship", StatusCode.UNSET, 1),
    ]
    assert {each.context.trace_id for each in [*spans, start]} == {request.get_span_context().trace_id}
    assert trace_id == format(request.get_span_context().trace_id, "032x")
    assert all(each.parent is not None and each.parent.span_id == start.context.span_id for each in spans)
    [bank] = [each for each in traced.exporter.get_finished_spans() if each.name == "bank"]
    assert bank.parent is not None
    assert bank.parent.span_id == spans[1].context.span_id
    assert [event.name for event in spans[0].events] == ["exception"]


@pytest.mark.usefixtures("runtime")
def test_two_runs_are_two_traces(traced: Traced) -> None:
    global current
    current = traced
    assert len({Order().run().result(10) for _ in range(2)}) == 2


@pytest.mark.usefixtures("runtime")
def test_the_duration_of_attempts_is_a_metric(traced: Traced) -> None:
    global current
    current = traced
    Order().run().result(10)

    def outcomes() -> list[tuple[Any, Any, int]]:
        data: Any = traced.reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        [duration] = [metric for metric in metrics if metric.name == "umbel.step.duration"]
        found = [
            (p.attributes["umbel.step"], p.attributes["umbel.outcome"], p.count) for p in duration.data.data_points
        ]  # type: ignore[union-attr, index]
        return sorted(found)

    assert outcomes() == [("charge", "ended", 1), ("charge", "failed", 1), ("ship", "ended", 1)]


def test_the_setting_leaves_what_traces_already(runtime: Any, traced: Traced) -> None:
    installed = tracing()

    with closing(Runtime(runtime.settings.model_copy(update={"otel": True}))):
        assert tracing() is installed


def test_the_setting_without_the_extra_is_refused(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "umbel.telemetry")
    monkeypatch.delitem(sys.modules, "umbel.tasks.telemetry.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.trace.propagation.tracecontext", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'umbel\[otel\]'"):
        Runtime(runtime.settings.model_copy(update={"otel": True}))


@pytest.mark.usefixtures("runtime")
def test_nothing_is_kept_with_a_run_that_nobody_traces() -> None:
    assert "trace" not in umbel.attach(Asked().run().run_id)._record().options


class Asked(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


FLOWS = """
import json
import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import umbel.telemetry
from umbel import Event, StartEvent, StopEvent, Workflow, step

file = open(os.environ["SPANS"], "a", buffering=1)
provider = TracerProvider()
exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
if "UMBEL_OTEL" in os.environ:
    trace.set_tracer_provider(provider)
else:
    umbel.telemetry.install(provider)


class Second(Event):
    pass


class Two(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Second:
        return Second()

    @step
    def second(self, ev: Second) -> StopEvent:
        return StopEvent()
"""


@pytest.mark.parametrize(("pool", "switched_on"), [("asyncio", {}), ("prefork", {"UMBEL_OTEL": "1"})])
def test_a_run_is_one_trace_over_its_processes(tmp_path: Path, pool: str, switched_on: dict[str, str]) -> None:
    (tmp_path / "two.py").write_text(FLOWS)
    written = tmp_path / "spans"
    written.touch()
    with EmbeddedRedis.temporary() as server:
        cli = Cli(tmp_path, UMBEL_REDIS_URL=server.url, SPANS=str(written), **switched_on)
        with cli.background("worker", "two", "--pool", pool) as worker:
            worker.says("ready.")
            cli("run", "two:Two")

            def spans() -> list[dict[str, Any]]:
                return [json.loads(line) for line in written.read_text().splitlines()]

            eventually(lambda: len(spans()) == 3, "all spans are exported")
    assert {each["name"] for each in spans()} == {"start Two", "Two.first", "Two.second"}
    assert len({each["context"]["trace_id"] for each in spans()}) == 1
