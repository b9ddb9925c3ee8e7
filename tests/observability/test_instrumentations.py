"""Existing instrumentation sees umbel's steps: sentry-sdk, structlog, opentelemetry-instrumentation-celery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.processes.command_line import Cli
from umbel.workers.embedded.redis_server import EmbeddedRedis

FLOWS = """
import json
import os

import sentry_sdk
import structlog
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

import umbel
from umbel import Event, StartEvent, StopEvent, Workflow, step

seen = open(os.environ["SEEN"], "a", buffering=1)


def say(kind, about):
    seen.write(json.dumps([kind, about], default=str) + chr(10))


class Written(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            if item.payload.json is not None:
                say("sentry " + item.type, item.payload.json)


class Spans(ConsoleSpanExporter):
    def export(self, spans):
        for span in spans:
            say("span", json.loads(span.to_json()))


def add_step(logger, method, event):
    return umbel.step_fields() | event


def write(logger, method, event):
    say("structlog", event)
    raise structlog.DropEvent


sentry_sdk.init(
    "https://key@sentry.invalid/1", transport=Written, integrations=[CeleryIntegration()], traces_sample_rate=1.0
)
structlog.configure(processors=[add_step, write])
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Spans()))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()


class Charged(Event):
    pass


class Order(Workflow):
    @step
    async def charge(self, ev: StartEvent) -> Charged:
        structlog.get_logger().info("charging", card="visa")
        sentry_sdk.set_tag("customer", "ada")
        return Charged()

    @step(queue="umbel")
    def ship(self, ev: Charged) -> StopEvent:
        raise OSError("no stock")
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    (tmp_path / "shop.py").write_text(FLOWS)
    (tmp_path / "seen").touch()
    with EmbeddedRedis.temporary() as server:
        yield Cli(tmp_path, UMBEL_REDIS_URL=server.url, SEEN=str(tmp_path / "seen"))


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_each_sees_the_steps_of_a_run(cli: Cli, pool: str) -> None:
    def seen(kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (cli.folder / "seen").read_text().splitlines())
        return [about for each, about in lines if each == kind]

    with cli.background("worker", "shop", "--pool", pool) as worker:
        worker.says("ready.")
        run_id = cli("start", "shop:Order").out.strip()
        cli("events", run_id, "--follow")
        eventually(lambda: len(seen("sentry event")) == 1, "the failed step is one error")
        # The SDK creates them in a wrapper around Celery's own tracer, which cannot await.
        traced = ["Order.charge", "Order.ship"] if pool == "prefork" else []
        eventually(lambda: len(seen("sentry transaction")) >= len(traced), "each step has its transaction")
        eventually(lambda: len({each["name"] for each in seen("span")}) >= 2, "both steps have spans")

    [logged] = seen("structlog")
    assert (logged["run_id"], logged["step"], logged["attempt"]) == (run_id, "charge", 1)
    assert (logged["event"], logged["card"]) == ("charging", "visa")

    [error] = seen("sentry event")
    assert [(each["type"], each["value"]) for each in error["exception"]["values"]] == [("OSError", "no stock")]
    assert "customer" not in error.get("tags", {})  # the tag of another step

    # On a slow machine a message may be redispatched, which is another transaction.
    first = {each["transaction"]: each for each in reversed(seen("sentry transaction"))}
    assert sorted(first) == traced
    assert [first[name].get("tags", {}).get("customer") for name in traced] == ["ada", None][: len(traced)]

    runs = [each for each in seen("span") if each["name"].startswith("run/")]
    assert {each["name"] for each in runs} == {"run/Order.charge", "run/Order.ship"}
    assert len({each["context"]["trace_id"] for each in seen("span")}) == 1
