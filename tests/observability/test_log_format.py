"""`--log-format json`: every log line of a worker is one JSON object with fields."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.processes.command_line import FLOWS, Cli
from umbel.workers.cli.start.log_format import JsonFormatter, json_line
from umbel.workers.embedded.redis_server import EmbeddedRedis


def record(text: str = "run %s failed", *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("umbel.execution", logging.WARNING, "file.py", 7, text, arguments or ("r1",), None)
    vars(made).update(extra)
    return made


def formatted(given: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(given)
    assert "\n" not in text
    fields: dict[str, Any] = json.loads(text)
    return fields


def test_a_record_is_one_object_with_its_own_fields() -> None:
    fields = formatted(record(action="step_failed", run_id="r1", step="charge", attempt=2))

    at = fields.pop("at")
    assert at.endswith("+00:00")
    assert fields.pop("pid") > 0
    assert fields == {
        "level": "WARNING",
        "logger": "umbel.execution",
        "message": "run r1 failed",
        "action": "step_failed",
        "run_id": "r1",
        "step": "charge",
        "attempt": 2,
    }


def test_a_traceback_is_a_field() -> None:
    made = record()
    try:
        raise ValueError("no money")
    except ValueError:
        made.exc_info = sys.exc_info()

    assert formatted(made)["error"].splitlines()[-1] == "ValueError: no money"


def test_values_that_json_cannot_carry_are_shown_as_text() -> None:
    assert formatted(record(data={"what": object}))["data"] == {"what": "<class 'object'>"}


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("closed")


def test_no_value_loses_the_record_and_the_others_stay_as_they_are() -> None:
    cyclic: list[object] = [1]
    cyclic.append(cyclic)

    fields = formatted(record(pairs={(1, 2): 3}, cyclic=cyclic, share=float("nan"), broken=_Unprintable(), rest=[4]))

    assert fields["message"] == "run r1 failed"
    assert fields["pairs"] == "{(1, 2): 3}"
    assert fields["cyclic"] == "[1, [...]]"
    assert fields["share"] == "nan"
    assert fields["broken"] == "<_Unprintable, whose repr raises RuntimeError>"
    assert fields["rest"] == [4]


def test_extra_fields_do_not_replace_those_of_every_record() -> None:
    assert formatted(record(level="mine", at="never"))["level"] == "WARNING"


def test_what_a_command_says_is_a_record_too() -> None:
    assert json.loads(json_line("Serves a%b"))["message"] == "Serves a%b"


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    (tmp_path / "flows.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        yield Cli(tmp_path, UMBEL_REDIS_URL=server.url)


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_a_worker_writes_nothing_but_objects(cli: Cli, pool: str) -> None:
    with cli.background(
        "worker", "flows.py:Order", "--pool", pool, "--concurrency", "1", "--log-format", "json"
    ) as worker:
        worker.says(" ready.")
        cli("start", "flows.py:Order", f"folder={cli.folder}", "--run-id", "poor")
        worker.says("step_failed")
        worker.interrupt()
        done = worker.wait()

    lines = [json.loads(line) for line in done.err.splitlines()]
    assert done.out == ""
    assert any(line["message"].startswith("Serves flows.Order: ") for line in lines)
    [failed] = [line for line in lines if line.get("action") == "step_failed"]
    assert (failed["run_id"], failed["step"], failed["attempt"], failed["level"]) == ("poor", "charge", 1, "ERROR")
    assert failed["error"].splitlines()[-1].endswith("CardDeclined: limit reached")
    eventually(lambda: worker.process.poll() is not None, "it has ended")
