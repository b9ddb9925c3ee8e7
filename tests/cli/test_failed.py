"""`umbel failed` lists stuck work, and `umbel retry` resumes failed runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from support.eventually import eventually
from support.processes.command_line import Cli
from umbel.workers.cli.main import cli as commands
from umbel.workers.embedded.redis_server import EmbeddedRedis

FLOWS = '''
import os
import signal

from umbel import StartEvent, StopEvent, Workflow, retry_policy, step
from umbel.retry_policy import stop_after_attempt, wait_fixed


class NoMoney(Exception):
    pass


class Order(Workflow):
    """Fails while a file is missing."""

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
    async def charge(self, ev: StartEvent) -> StopEvent:
        if not os.path.exists(ev.folder + "/money"):
            raise NoMoney("limit reached")
        return StopEvent(result=ev.n)


class Deadly(Workflow):
    """Kills its process while a file is missing."""

    @step
    def go(self, ev: StartEvent) -> StopEvent:
        if not os.path.exists(ev.folder + "/cure"):
            os.kill(os.getpid(), signal.SIGKILL)
        return StopEvent()
'''

#: No worker loads this workflow.
ELSEWHERE = """
from umbel import StartEvent, StopEvent, Workflow, step


class Unserved(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent()
"""


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line with a prefork worker, which survives the death of its children."""
    (tmp_path / "dying.py").write_text(FLOWS)
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    with EmbeddedRedis.temporary() as server:
        configured = Cli(tmp_path, UMBEL_REDIS_URL=server.url, UMBEL_RING_SECONDS="0.5")
        worker = ("worker", "dying:Order", "dying:Deadly", "--pool", "prefork", "--concurrency", "2")
        with configured.background(*worker) as process:
            process.says("ready.")
            yield configured


def dead(cli: Cli, *options: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(cli("failed", "--json", *options).out)
    return found


def status(cli: Cli, run_id: str) -> str:
    return str(json.loads(cli("show", run_id, "--json").out)["status"])


@pytest.mark.timeout(150)
def test_failed_runs_are_listed_with_their_reasons_and_a_retry_resumes_them(cli: Cli) -> None:
    folder = f"folder={cli.folder}"
    assert "No failed runs" in cli("failed").err
    for n in range(2):
        cli("run", "dying:Order", folder, f"n={n}", "--run-id", f"order{n}", fails=True)
    cli("start", "dying:Deadly", folder, "--run-id", "deadly")
    eventually(lambda: status(cli, "deadly") == "failed", "it is given up")

    found = {each["run_id"]: each for each in dead(cli)["runs"]}

    assert set(found) == {"order0", "order1", "deadly"}
    order, deadly = found["order0"], found["deadly"]
    assert (order["reason"], order["step"], order["attempts"]) == ("retries exhausted", "charge", 3)
    assert order["error"] == "NoMoney('limit reached')"
    assert [each["outcome"] for each in order["history"]] == ["retrying", "retrying", "failed"]
    assert (deadly["reason"], deadly["step"]) == ("worker lost", "go")
    assert [each["outcome"] for each in deadly["history"]] == ["lost"] * 4 + ["failed"]
    assert [each["run_id"] for each in dead(cli, "--workflow", "Deadly")["runs"]] == ["deadly"]
    table = cli("failed").out.splitlines()
    assert table[0].split() == ["WHEN", "KIND", "RUN", "OR", "QUEUE", "STEP", "COUNT", "REASON"]
    assert any("order1" in line and "retries exhausted: NoMoney('limit reached')" in line for line in table)

    (cli.folder / "money").touch()
    (cli.folder / "cure").touch()
    printed = cli("retry", "order0", "deadly").err
    assert "'order0' resumes with 1 step" in printed
    assert "'deadly' resumes with 1 step" in printed
    eventually(lambda: {status(cli, each) for each in ("order0", "deadly")} == {"completed"}, "both complete")

    assert "Resume 1 failed run?" in cli("retry", "--all", stdin="n\n", fails=True).err
    assert len(dead(cli)["runs"]) == 1, "without a yes nothing is done"
    cli("retry", "--all", "--yes")
    eventually(lambda: dead(cli)["runs"] == [], "no failed run is left")
    assert status(cli, "order1") == "completed"


def test_parked_work_and_messages_that_were_set_aside_are_listed_too(cli: Cli) -> None:
    cli("start", "elsewhere:Unserved", "--run-id", "unserved")
    with redis.Redis.from_url(cli.environment["UMBEL_REDIS_URL"]) as broker:
        broker.lpush("umbel:broker:umbel", "{this is no message")
    eventually(lambda: dead(cli)["messages"] and dead(cli)["parked"], "both are noticed")

    found = dead(cli)
    [parked], [messages] = found["parked"], found["messages"]

    assert (parked["run_id"], parked["step"]) == ("unserved", "go")
    assert messages["count"] == 1
    assert "JSON" in messages["latest_reason"]
    table = cli("failed").out
    assert "parked" in table
    assert "cannot be decoded" in table


def test_a_retry_names_what_it_cannot_resume_and_continues_with_the_rest(cli: Cli) -> None:
    cli("run", "dying:Order", f"folder={cli.folder}", "n=1", "--run-id", "order", fails=True)
    (cli.folder / "money").touch()

    printed = cli("retry", "nobody", "order", fails=True).err

    assert "Error: No run 'nobody'" in printed
    assert "'order' resumes with 1 step" in printed
    eventually(lambda: status(cli, "order") == "completed", "the other goes on")
    assert "Give run ids, or --all" in cli("retry", fails=True).err


def test_the_former_name_of_the_command_still_works_and_is_not_listed() -> None:
    former = CliRunner().invoke(commands, ["dead", "--help"], prog_name="umbel")
    assert former.exit_code == 0
    assert "List stuck work" in former.output
    assert "\n  dead " not in CliRunner().invoke(commands, ["--help"]).output
