"""`umbel …` without a configured Redis: everything is embedded, kept in a state folder, and stopped in time."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from support.eventually import eventually
from support.processes.command_line import FLOWS, Background, Cli
from support.processes.owner import processes_mentioning
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.folder import ServerFolder, is_locked, project_state


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with its own state folder and file of workflows."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return Cli(tmp_path, UMBEL_STATE_DIR=str(tmp_path / "state"))


def nothing_is_left(cli: Cli) -> bool:
    """Return whether no worker of this test lives (its command line has the folder) and no server holds the folder."""
    server_lock = ServerFolder(cli.folder / "state" / project_state(cli.folder)).server_lock
    return not processes_mentioning(f"{cli.folder}/flows.py") and not is_locked(server_lock)


def test_a_run_without_a_redis_is_embedded_and_later_commands_find_it(cli: Cli) -> None:
    done = cli("run", f"{cli.folder}/flows.py:Squares", "count=3", "--run-id", "kept")

    assert done.out == "{'total': 5}\n"
    assert "square: 3 done" in done.err
    assert "shutdown" not in done.err
    assert nothing_is_left(cli)
    assert [run["run_id"] for run in json.loads(cli("runs", "--json").out)] == ["kept"]
    assert len(cli("events", "kept").out.splitlines()) == 4
    assert nothing_is_left(cli)


def test_an_embedded_run_is_cancelled_when_its_command_is_interrupted(cli: Cli) -> None:
    with cli.background("run", f"{cli.folder}/flows.py:Slow", "--run-id", "slow", "--pool", "solo") as command:
        command.says("wait: 1 running")
        command.interrupt()
        done = command.wait()

    assert done.code == 130
    assert "Cancelled run 'slow'. Resume it with: umbel retry slow" in done.err
    assert nothing_is_left(cli)


def test_a_worker_that_cannot_start_ends_the_run_with_its_last_words(cli: Cli) -> None:
    (cli.folder / "picky.py").write_text("import sys\nassert 'worker' not in sys.argv, 'not in a worker'\n" + FLOWS)

    done = cli("run", "picky.py:Squares", "count=1", fails=True)

    assert done.code == 1
    assert "Error: The worker process ended with code 1. Its last lines:\n" in done.err
    assert "AssertionError: not in a worker" in done.err


def test_progress_is_a_table_on_a_terminal(cli: Cli) -> None:
    terminal, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while data := os.read(terminal, 4096):
                seen.extend(data)
        except OSError:  # how a terminal reports that the other side has gone
            return

    reader = threading.Thread(target=read)
    reader.start()
    command = cli.command("run", "flows.py:Squares", "count=2", "--pool", "solo")
    done = subprocess.run(
        command, cwd=cli.folder, env=cli.environment, stdout=subprocess.PIPE, stderr=theirs, timeout=60
    )
    os.close(theirs)
    reader.join(10)
    os.close(terminal)

    assert done.stdout == b"{'total': 1}\n"
    text = seen.decode()
    assert "running" in text
    assert "square" in text


def test_dev_serves_until_it_is_interrupted_and_other_terminals_attach_to_it(cli: Cli) -> None:
    with cli.background("dev", f"{cli.folder}/flows.py:Squares", "--pool", "threads") as dev:
        dev.says("ready.")
        assert f"Runs are kept in {cli.folder}/state/{project_state(cli.folder)}" in dev.err
        run_id = cli("start", "flows.py:Squares", "count=2")
        assert "No live worker" not in run_id.err
        assert '{"result": {"total": 1}}' in cli("events", run_id.out.strip(), "--follow").out
        with httpx.Client(base_url=console(dev), timeout=30) as client:
            assert client.get("/").headers["content-type"].startswith("text/html")
            answer = client.post("/workflows/Squares/run", json={"start_event": {"count": 3}})
            assert answer.json()["result"]["value"]["result"] == {"total": 5}
        dev.interrupt()
        done = dev.wait()

    assert done.code == 0
    assert (done.out + done.err).count("Warm shutdown") == 1
    assert nothing_is_left(cli)


def console(dev: Background) -> str:
    """Return the URL on which a dev command listens."""
    dev.says("Console and HTTP API: ")
    return dev.err.partition("Console and HTTP API: ")[2].split()[0]


def test_dev_takes_the_next_port_and_ends_on_sigterm_with_everything_it_has_started(cli: Cli) -> None:
    flower_port = free_port()
    with taking(8080):
        options = ["--pool", "solo", "--flower", "--flower-port", str(flower_port), "--log-format", "json"]
        with cli.background("dev", f"{cli.folder}/flows.py:Squares", *options) as dev:
            dev.says(" ready.")
            url = json.loads(dev.err.splitlines()[1])["message"].rpartition(" ")[2]
            assert url != "http://127.0.0.1:8080"
            assert httpx.get(f"{url}/workflows").json() == {"workflows": ["Squares"]}
            eventually(lambda: answers(f"http://127.0.0.1:{flower_port}/healthcheck"), "Flower answers")
            dev.process.terminate()
            done = dev.wait()

    assert done.code == 0, done
    assert nothing_is_left(cli)
    assert not answers(f"http://127.0.0.1:{flower_port}/healthcheck")


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.ConnectError:
        return False


@contextmanager
def taking(port: int) -> Iterator[None]:
    """Keep the port in use: by this server, or by another one that already has it."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def test_a_port_that_is_taken_and_asked_for_ends_dev(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = cli("dev", f"{cli.folder}/flows.py:Squares", "--pool", "solo", "--port", port, fails=True)

    assert f"Error: Port {port} is in use on this machine. Choose another one with --port." in done.err
    assert nothing_is_left(cli)


def test_a_killed_dev_leaves_nothing_and_the_next_one_continues_with_its_runs(cli: Cli) -> None:
    with cli.background("dev", f"{cli.folder}/flows.py:Order", "--pool", "solo") as dev:
        dev.says("ready.")
        dev.process.send_signal(signal.SIGKILL)
        dev.wait()
    eventually(lambda: nothing_is_left(cli), "server and worker are gone")
    run_id = cli("start", "flows.py:Order", f"folder={cli.folder}").out.strip()
    (cli.folder / "money").touch()

    with cli.background("dev", f"{cli.folder}/flows.py:Order", "--pool", "solo") as dev:
        dev.says("ready.")
        assert '{"result": "charged"}' in cli("events", run_id, "--follow").out


def test_a_step_may_start_another_workflow_of_its_module(cli: Cli) -> None:
    (cli.folder / "nested.py").write_text(
        """
from umbel import Event, StartEvent, StopEvent, Workflow, step


class Number(StartEvent):
    n: int


class Outer(Workflow):
    @step
    async def ask(self, ev: Number) -> StopEvent:
        return StopEvent(result=1 + await Inner().run(n=ev.n))


class Inner(Workflow):
    @step
    def answer(self, ev: Number) -> StopEvent:
        return StopEvent(result=2 * ev.n)


class Unfit(Workflow):
    def __init__(self, needed: int) -> None:
        super().__init__()

    @step
    async def never(self, ev: StartEvent) -> StopEvent:
        return StopEvent()
"""
    )

    assert cli("run", "nested.py:Outer", "n=20").out == "41\n"
