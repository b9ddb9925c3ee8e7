"""`umbel sessions` and `umbel session`: inspecting and changing sessions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from support.eventually import eventually
from support.processes.command_line import Cli
from umbel.workers.cli.main import cli as cli_of_umbel
from umbel.workers.embedded.redis_server import EmbeddedRedis

FLOWS = """
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step


class GoOn(Event):
    pass


class Count(Workflow):
    @step
    async def count(self, ev: StartEvent, ctx: Context) -> StopEvent:
        if ev.get("waits"):
            await ctx.wait_for_event(GoOn)
        async with ctx.store.edit_state() as state:
            state.n = state.get("n", 0) + 1
        return StopEvent(result=state.n)
"""


class InProcess:
    """The command line, called in this process: a process for each of the many calls would take too long."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def __call__(self, *arguments: str, fails: bool = False) -> Result:
        result = CliRunner(env=self.environment).invoke(cli_of_umbel, arguments)
        assert (result.exit_code != 0) == fails, result.output
        return result


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    """The command line with a worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counting.py").write_text(FLOWS)
    with EmbeddedRedis.temporary() as server:
        configured = Cli(tmp_path, UMBEL_REDIS_URL=server.url)
        with configured.background("worker", "counting:Count") as process:
            process.says("ready.")
            yield InProcess(tmp_path, {"UMBEL_REDIS_URL": server.url})


def shown(cli: InProcess, *command: str) -> Any:
    return json.loads(cli("session", "ada", *command).stdout)


def until_idle(cli: InProcess) -> None:
    eventually(lambda: shown(cli, "show")["status"] == "idle", "no run goes on")


@pytest.mark.timeout(150)
def test_a_session_is_shown_and_changed(cli: InProcess) -> None:
    assert "No sessions yet" in cli("sessions").stderr
    assert "There is no session 'ada'" in cli("session", "ada", fails=True).stderr
    for _ in range(3):
        cli("start", "counting:Count", "--session", "ada")
    until_idle(cli)

    table = cli("sessions").stdout.splitlines()
    assert table[0].split() == ["SESSION", "STATUS", "WAITING", "VERSION", "LAST", "CHANGE"]
    assert table[1].split()[:4] == ["ada", "idle", "0", "3"]
    assert [each["name"] for each in json.loads(cli("sessions", "--prefix", "a", "--json").stdout)] == ["ada"]
    assert "No matching sessions" in cli("sessions", "--status", "busy").stderr
    assert shown(cli, "state") == {"n": 3}
    assert shown(cli, "state", "--version", "1") == {"n": 1}
    runs = shown(cli, "runs", "--json")
    assert [each["status"] for each in runs] == ["completed"] * 3
    assert [each["after"] for each in shown(cli, "versions", "--json")] == [*(each["run_id"] for each in runs), None]

    assert "'bob' has the state of 'ada'" in cli("session", "ada", "fork", "bob", "--at", "2").stderr
    assert json.loads(cli("session", "bob", "state").stdout) == {"n": 2}
    assert "as in version 1; this is version 4" in cli("session", "ada", "rewind", "1").stderr
    assert shown(cli, "state") == {"n": 1}
    assert "There is" not in cli("session", "ada", "close").stderr
    assert "is closed" in cli("start", "counting:Count", "--session", "ada", fails=True).stderr
    cli("session", "ada", "delete")
    assert "There is no session 'ada'" in cli("session", "ada", fails=True).stderr


@pytest.mark.timeout(150)
def test_runs_that_wait_are_shown_and_may_be_refused(cli: InProcess) -> None:
    held = cli("start", "counting:Count", "waits=true", "--session", "ada").stdout.strip()
    waiting = cli("start", "counting:Count", "--session", "ada").stdout.strip()

    assert [each["status"] for each in shown(cli, "runs", "--json")] == ["queued", "running"]
    assert f"Waiting      {waiting}" in cli("session", "ada").stdout
    assert "queued in its session" in cli("runs").stdout
    assert (
        "'ada' is running"
        in cli("start", "counting:Count", "--session", "ada", "--when-busy", "reject", fails=True).stderr
    )
    assert "cannot be deleted" in cli("session", "ada", "delete", fails=True).stderr
    for options in (["--when-busy", "queue"], ["--session", "ada", "--run-id", "mine"]):
        assert "Error" in cli("start", "counting:Count", *options, fails=True).stderr

    cli("send", held, "GoOn")
    until_idle(cli)
    assert shown(cli, "state") == {"n": 2}
