"""Log lines of steps are kept with the run: which lines, how many, for how long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from support.eventually import eventually
from support.processes.command_line import Cli
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.orchestration.inspection.content.step_logs import LogLine, read_log
from umbel.orchestration.model.errors import WorkflowCancelledByUser
from umbel.orchestration.model.work_item import Work
from umbel.orchestration.store.verbs import Store
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from umbel.tasks.client.runtime import Runtime
from umbel.tasks.context.step_fields import kept_step_logs
from umbel.tasks.logs.gathered import LAST, LINE, StepLog, redacted, text_of
from umbel.workers.embedded.redis_server import EmbeddedRedis

shop = logging.getLogger("shop.orders")
shop.setLevel(logging.INFO)


def lines_of(runtime: Runtime, run_id: str, **only: str) -> tuple[LogLine, ...]:
    return runtime.portal.call(read_log(runtime.store, run_id, **only)).lines


class Packed(Event):
    pass


class Order(Workflow):
    @step
    async def charge(self, ev: StartEvent) -> Packed:
        shop.debug("below the level")
        shop.info("charging %s of redis://user:secret@shop/0", 9)
        await asyncio.create_task(asyncio.to_thread(shop.warning, "in a thread"))
        return Packed()

    @step
    def pack(self, ev: Packed) -> StopEvent:
        logging.getLogger("shop.parcels").warning("in a plain step")
        try:
            raise ValueError("no box")
        except ValueError:
            shop.exception("not packed")
        return StopEvent()


def test_lines_have_their_step_level_logger_and_traceback_and_no_passwords(runtime: Runtime) -> None:
    run = Order().run()
    run.result(20)

    found = lines_of(runtime, run.run_id)

    assert [(line.step, line.level, line.logger, line.attempt) for line in found] == [
        ("charge", "INFO", "shop.orders", 1),
        ("charge", "WARNING", "shop.orders", 1),
        ("pack", "WARNING", "shop.parcels", 1),
        ("pack", "ERROR", "shop.orders", 1),
    ]
    assert [line.text for line in found[:3]] == [
        "charging 9 of redis://user:***@shop/0",
        "in a thread",
        "in a plain step",
    ]
    assert found[3].text.startswith("not packed\nTraceback")
    assert found[3].text.endswith("ValueError: no box")
    assert [line.text for line in lines_of(runtime, run.run_id, step="charge")] == [line.text for line in found[:2]]
    assert lines_of(runtime, run.run_id, work_id=found[2].work_id) == found[2:]


class Silent(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


def test_a_run_that_logs_nothing_has_no_key_for_it(runtime: Runtime) -> None:
    run = Silent().run()
    run.result(20)

    assert runtime.portal.call(runtime.store.command("look", "EXISTS", runtime.store.locate(run.run_id)["logs"])) == 0
    assert lines_of(runtime, run.run_id) == ()


class Flaky(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    async def charge(self, ev: StartEvent) -> StopEvent:
        shop.info("trying")
        raise OSError("no answer")


def test_failed_attempts_keep_what_they_have_logged(runtime: Runtime) -> None:
    run = Flaky().run()
    with pytest.raises(OSError, match="no answer"):
        run.result(20)

    assert [(line.attempt, line.text) for line in lines_of(runtime, run.run_id)] == [(1, "trying"), (2, "trying")]


class Waiting(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        shop.info("begun")
        ctx.write_event_to_stream(Packed())
        await asyncio.Event().wait()
        return StopEvent()


def test_what_a_running_step_logs_is_written_while_it_runs_and_kept_when_it_is_cancelled(runtime: Runtime) -> None:
    run = Waiting().run()
    [line] = eventually(lambda: lines_of(runtime, run.run_id), "written")
    assert line.text == "begun"

    run.cancel()
    with pytest.raises(WorkflowCancelledByUser):
        run.result(20)

    keys = runtime.store.locate(run.run_id)
    assert lines_of(runtime, run.run_id) == (line,)
    assert runtime.portal.call(runtime.store.command("look", "PTTL", keys["logs"])) > 0


def test_lines_that_are_written_after_the_end_of_the_run_expire_with_it(runtime: Runtime) -> None:
    run = Silent().run()
    run.result(20)
    late = StepLog(_work(run.run_id), 1_000)
    late.add(1, "INFO", "shop", "late")
    taken = late.take()
    assert taken is not None

    for _ in range(2):  # repeated, as if its reply were lost
        runtime.portal.call(runtime.store.log(run.run_id, *taken, patience_seconds=5))

    keys = runtime.store.locate(run.run_id)
    life, of_run = (runtime.portal.call(runtime.store.command("look", "PTTL", keys[name])) for name in ("logs", "run"))
    assert [line.text for line in lines_of(runtime, run.run_id)] == ["late"]
    assert 0 < life <= of_run + 1_000


def _work(run_id: str) -> Any:
    work = object.__new__(Work)
    for name, value in {"run_id": run_id, "work_id": "w1", "step": "charge", "claim_id": "c1"}.items():
        object.__setattr__(work, name, value)
    for name in ("failures", "losses"):
        object.__setattr__(work, name, 0)
    return work


def test_an_execution_keeps_its_first_lines_and_its_last_ones(runtime: Runtime) -> None:
    log, run = StepLog(_work("r"), room=90), Silent().run()
    run.result(20)
    for number in range(1_000):
        log.add(number, "INFO", "", f"line {number:04}")
    taken = log.take(is_over=True)
    assert taken is not None

    runtime.portal.call(runtime.store.log(run.run_id, *taken, patience_seconds=5))

    texts = [line.text for line in lines_of(runtime, run.run_id)]
    assert texts[0] == "line 0000"
    assert texts[9] == "line 0009"
    assert texts[10] == f"… {1_000 - 10 - LAST} lines are left out"
    assert texts[11:] == [f"line {number:04}" for number in range(1_000 - LAST, 1_000)]


def test_a_long_line_is_cut_and_one_that_no_encoding_has_is_kept(runtime: Runtime) -> None:
    log, run = StepLog(_work("r"), room=100_000), Silent().run()
    run.result(20)
    log.add(1, "INFO", "", "x" * (LINE + 1))
    log.add(2, "INFO", "", "half \ud800")
    taken = log.take()
    assert taken is not None

    runtime.portal.call(runtime.store.log(run.run_id, *taken, patience_seconds=5))

    assert [line.text for line in lines_of(runtime, run.run_id)] == ["x" * LINE + "…", "half \\ud800"]


def test_of_a_run_that_logs_very_much_the_newest_lines_are_kept(runtime: Runtime) -> None:
    run, store = Silent().run(), runtime.store
    run.result(20)
    for number in range(80):
        part = StepLog(_work("r"), room=100_000)
        for _ in range(5):
            part.add(number, "INFO", "", token_hex(4_000))
        taken = part.take()
        assert taken is not None
        runtime.portal.call(store.log(run.run_id, *taken, patience_seconds=5))

    log = runtime.portal.call(read_log(store, run.run_id))
    used = runtime.portal.call(store.command("look", "MEMORY", "USAGE", store.locate(run.run_id)["logs"]))
    assert log.is_cut
    assert log.lines[-1].at == 79
    assert used <= store.settings.run_log_max_bytes


def test_passwords_of_urls_in_a_text_are_replaced() -> None:
    assert redacted("see https://a:b@c/d?token=e amqp://f:g@h") == "see https://a:***@c/d?token=*** amqp://f:***@h"
    assert redacted("nothing: a@b") == "nothing: a@b"
    record = logging.LogRecord("shop", logging.INFO, "", 0, "a" * 10**7 + "://", None, None)
    assert text_of(record) == "a" * 2 * LINE
    record = logging.LogRecord(
        "shop", logging.INFO, "", 0, "b" * (LINE - 9) + "amqp://u:" + "c" * 50 + "@h", None, None
    )
    assert "c" not in text_of(record)


def test_a_line_that_cannot_be_formatted_is_kept_as_it_is() -> None:
    record = logging.LogRecord("shop", logging.INFO, "", 0, "%d boxes", ("no",), None)

    assert text_of(record) == "'%d boxes' ('no',)"

    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    record = logging.LogRecord("shop", logging.INFO, "", 0, "%s", (Broken(),), None)
    assert text_of(record) == "'%s' <tuple>"


class Drops(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = record.msg.replace("4711", "****")
        return "internal" not in record.msg


class Secret(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        shop.info("card 4711")
        shop.info("internal")
        return StopEvent()


def test_filters_of_a_logger_decide_what_is_kept(runtime: Runtime) -> None:
    drops, logger = Drops(), logging.getLogger("umbel.step_logs")
    logger.addFilter(drops)
    try:
        run = Secret().run()
        run.result(20)
    finally:
        logger.removeFilter(drops)

    assert [line.text for line in lines_of(runtime, run.run_id)] == ["card ****"]


FLOWS = """
import logging

from umbel import StartEvent, StopEvent, Workflow, step


class Order(Workflow):
    @step
    def charge(self, ev: StartEvent) -> StopEvent:
        print("printed")
        logging.getLogger("shop").info("logged\\nin two lines")
        return StopEvent(result="done")
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder: Path = tmp_path_factory.mktemp("project")
    (folder / "flows.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        yield Cli(folder, UMBEL_REDIS_URL=server.url)


def test_the_command_prints_what_a_step_in_a_worker_has_logged_and_printed(cli: Cli) -> None:
    with cli.background("worker", "flows", "--concurrency", "1") as worker:
        worker.says("ready.")
        run_id = cli("start", "flows:Order").out.strip()
        cli("events", run_id, "--follow")
        printed = cli("logs", run_id).out.splitlines()

    first, second, third = (line[line.index("charge") :] if "charge" in line else line for line in printed)
    assert first == "charge  INFO     print: printed"
    assert second == "charge  INFO     shop: logged"
    assert third.strip() == "in two lines"


def test_with_the_setting_off_nothing_is_kept(runtime: Runtime) -> None:
    off = runtime.settings.model_copy(update={"step_logs": "off"})

    assert kept_step_logs(Store(runtime.store.connection, off)) is None
