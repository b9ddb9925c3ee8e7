"""Spans and metrics for OpenTelemetry: one trace per run, a span per attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ...orchestration.model.work_item import Work
from ..context.tracing import trace_with
from ..context.waits import Waits

_PROPAGATOR = TraceContextTextMapPropagator()
#: Key in a run's options for the trace that started it.
_KEPT = "trace"
_TRACEPARENT = "traceparent"
#: Maximum links of an attempt: a fan-in may have thousands of causes, and an SDK keeps 128.
_MOST_LINKS = 100


class _Spans:
    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._seconds = meter.create_histogram("umbel.step.duration", "s", "How long attempts of steps took")

    def begin(self, workflow: str) -> dict[str, Any]:
        name = f"start {workflow.rpartition('.')[2]}"
        attributes = {"umbel.workflow": workflow}
        with self._tracer.start_as_current_span(name, kind=trace.SpanKind.PRODUCER, attributes=attributes):
            return self.inherited()

    def inherited(self) -> dict[str, Any]:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return {_KEPT: carrier} if carrier else {}

    def current(self) -> str:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get(_TRACEPARENT, "")

    @contextmanager
    def attempt(self, work: Work, causes: Iterable[str]) -> Iterator[str]:
        step = f"{work.workflow.rpartition('.')[2]}.{work.step}"
        attributes: dict[str, str | int] = {
            "umbel.run_id": work.run_id,
            "umbel.workflow": work.workflow,
            "umbel.step": work.step,
            "umbel.attempt": work.attempt,
            "umbel.work_id": work.work_id,
        }
        # The span of the Celery message, if something creates one. Its trace may be another than the run's.
        around = trace.get_current_span().get_span_context()
        span = self._tracer.start_span(
            step,
            context=_PROPAGATOR.extract(_kept_of(work), Context()),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=[trace.Link(each) for each in (around, *map(_span_of, islice(causes, _MOST_LINKS))) if each.is_valid],
        )
        began, outcome = time.monotonic(), "ended"
        try:
            with trace.use_span(span, end_on_exit=True):
                try:
                    yield self.current()
                except Waits:
                    outcome = "waits"
                    span.set_attribute("umbel.outcome", outcome)
                    raise
        except Exception:
            outcome = "failed"
            raise
        except Waits:
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            labels = {"umbel.workflow": work.workflow, "umbel.step": work.step, "umbel.outcome": outcome}
            self._seconds.record(time.monotonic() - began, labels)


def _span_of(traceparent: str) -> trace.SpanContext:
    context = _PROPAGATOR.extract({_TRACEPARENT: traceparent}, Context())
    return trace.get_current_span(context).get_span_context()


def _kept_of(work: Work) -> dict[str, str]:
    kept = json.loads(work.options).get(_KEPT) if _KEPT in work.options else None
    return kept if isinstance(kept, dict) else {}


def install(
    tracer_provider: trace.TracerProvider | None = None, meter_provider: metrics.MeterProvider | None = None
) -> None:
    """Trace runs with OpenTelemetry from now on, in this process and in processes forked from it.

    Call it in each program that starts runs, and in a module that the workers load. A run belongs to the trace of the
    code that started it: a span `start Order` there, then one span per attempt, such as `Order.charge`, on the
    worker that executes it, however much later. Runs that a step starts belong to the same trace. Each attempt links
    to the spans that emitted the events which led to it. If the starting program does not call it, each attempt is a
    trace of its own.

    The trace is kept with the run in Redis, so it does not depend on the broker. A span covers the step's code, but not
    the commit that follows.

    Args:
        tracer_provider, meter_provider: By default the global ones.
    """
    tracer = trace.get_tracer("umbel", tracer_provider=tracer_provider)
    trace_with(_Spans(tracer, metrics.get_meter("umbel", meter_provider=meter_provider)))
