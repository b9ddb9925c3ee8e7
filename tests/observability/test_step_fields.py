"""The step fields of log records, Celery's current task in steps, and the configuration of the root logger."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel
from support.processes.command_line import Cli
from umbel import Context, StartEvent, StepFilter, StopEvent, Workflow, step, step_fields
from umbel.workers.embedded.redis_server import EmbeddedRedis

FLOWS = """
import asyncio
import logging

import celery

from umbel import Context, Event, StartEvent, StopEvent, Workflow, step, step_fields

logging.basicConfig(level=logging.WARNING, format="APPLICATION %(levelname)s %(name)s %(message)s")
logger = logging.getLogger("shop.orders")


class Second(Event):
    first: str


def current():
    return f"{celery.current_task.name} {celery.current_task.request.id is not None}"


class Order(Workflow):
    @step
    def plain(self, ev: StartEvent) -> Second:
        return Second(first=current())

    @step
    async def coroutine(self, ev: Second) -> StopEvent:
        logger.info("not wanted by the application")
        logger.warning("wanted by the application")
        await asyncio.sleep(0)
        in_a_thread = await asyncio.to_thread(current)
        root = logging.getLogger()
        seen = [ev.first, current(), in_a_thread]
        return StopEvent(result=[*seen, step_fields()["step"], root.level, len(root.handlers)])
"""


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s|%(run_id)s|%(step)s|%(attempt)s"))
        self.addFilter(StepFilter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def handler() -> Iterator[Lines]:
    lines, logger = Lines(), logging.getLogger("shop")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


class Shop(Workflow):
    @step
    async def charge(self, ctx: Context, ev: StartEvent) -> StopEvent:
        logging.getLogger("shop.cards").warning("charging")
        await asyncio.create_task(asyncio.to_thread(logging.getLogger("shop.cards").warning, "in a thread"))
        logging.getLogger("shop.cards").warning("its own", extra={"step": "another"})
        return StopEvent()


@pytest.mark.usefixtures("runtime")
def test_each_log_line_of_a_step_has_its_run_step_and_attempt(handler: Lines) -> None:
    run = Shop().run()
    run.result(10)
    logging.getLogger("shop").warning("outside")

    mine = f"{run.run_id}|charge|1"
    assert handler.lines == [
        f"charging|{mine}",
        f"in a thread|{mine}",
        f"its own|{run.run_id}|another|1",
        "outside|||",
    ]
    assert step_fields() == {}


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "flows.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        yield Cli(folder, UMBEL_REDIS_URL=server.url)


@pytest.mark.parametrize("pool", ["asyncio", "prefork", "threads"])
def test_steps_have_a_current_task_and_the_applications_root_logger_is_left_alone(cli: Cli, pool: str) -> None:
    with cli.background("worker", "flows", "--pool", pool, "--concurrency", "2", "--loglevel", "INFO") as worker:
        worker.says("ready.")
        runtime = umbel.Runtime(umbel.Settings(redis_url=cli.environment["UMBEL_REDIS_URL"]))
        run_id = cli("start", "flows:Order").out.strip()
        result = runtime.attach(run_id).result(30)
        runtime.close()
        worker.says("wanted by the application")
        printed = worker.out + worker.err

    assert result == ["Order.plain True", "Order.coroutine True", "Order.coroutine True", "coroutine", 30, 1]
    assert "APPLICATION WARNING shop.orders wanted by the application" in printed
    assert "not wanted" not in printed
    assert "APPLICATION INFO celery.apps.worker" in printed  # the worker's level applies to its own loggers only


def test_json_lines_of_a_step_have_its_run_step_and_attempt(cli: Cli) -> None:
    with cli.background("worker", "flows", "--log-format", "json") as worker:
        worker.says("ready.")
        run_id = cli("start", "flows:Order").out.strip()
        worker.says("wanted by the application")
        printed = worker.out + worker.err

    [line] = [json.loads(line) for line in printed.splitlines() if '"wanted by' in line]
    assert (line["run_id"], line["step"], line["attempt"]) == (run_id, "coroutine", 1)


def test_a_root_logger_that_nobody_has_configured_is_set_up_as_celery_does_it(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(FLOWS.replace("logging.basicConfig", "dict"))
    with EmbeddedRedis.temporary() as server:
        cli = Cli(tmp_path, UMBEL_REDIS_URL=server.url)
        with cli.background("worker", "bare", "--loglevel", "INFO") as worker:
            worker.says("ready.")
            cli("start", "bare:Order")
            worker.says("not wanted by the application")
