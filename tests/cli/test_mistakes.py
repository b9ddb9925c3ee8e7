"""Mistakes on the command line: one line of error that says what is wrong and what to do."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from support.processes.command_line import Cli
from support.processes.terminal import Terminal

#: Each command is a process, and each `run` starts its own Redis and worker.
pytestmark = pytest.mark.timeout(180)

FLOWS = """
from datetime import datetime
from decimal import Decimal
from umbel import StartEvent, StopEvent, Workflow, step


class Order(StartEvent):
    item: str
    count: int = 1
    price: Decimal = Decimal(0)
    note: str | None = None
    at: datetime | None = None


class Buy(Workflow):
    @step
    async def buy(self, ev: Order) -> StopEvent:
        return StopEvent(result=f"{ev.item!r} {ev.count!r} {ev.price!r} {ev.note!r} {ev.at!r}")


class Loose(Workflow):
    @step
    async def take(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=dict(ev.items()))
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line in a folder with workflows."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "flows.py").write_text(FLOWS)
    return Cli(folder, UMBEL_STATE_DIR=str(folder / "state"))


def test_values_are_read_by_the_type_of_their_field(cli: Cli) -> None:
    given = ["item=3", "count=4", "price=1.10", "note=5", "at=2026-01-02T03:04:05"]

    done = cli("run", "flows.py:Buy", *given)

    assert done.out == "'3' 4 Decimal('1.10') '5' datetime.datetime(2026, 1, 2, 3, 4, 5)\n"
    assert cli("run", "flows.py:Loose", "n=3", "m:=[1]", 't:="3"').out == "{'n': 3, 'm': [1], 't': '3'}\n"


def test_a_field_that_a_start_event_does_not_have_is_refused_with_the_nearest_name(cli: Cli) -> None:
    refused = cli("run", "flows.py:Buy", "item=a", "cuont=3", fails=True).err
    assert "Order has no field 'cuont'. Did you mean 'count'? Its fields: item, count, price, note, at." in refused

    refused = cli("start", "flows.py:Buy", "item=a", "nonsense=3", fails=True).err
    assert "Order has no field 'nonsense'. Its fields: " in refused
    assert "count:=x is not valid JSON" in cli("run", "flows.py:Buy", "item=a", "count:=x", fails=True).err


def test_a_mistyped_command_is_corrected(cli: Cli) -> None:
    assert cli("rnu", fails=True).err.endswith("Error: No such command 'rnu'. Did you mean 'run'?\n")


def test_check_checks_all_that_can_be_loaded(cli: Cli) -> None:
    checked = cli("check", "flows.py", "missing.py", fails=True)

    assert "flows.Buy: OK" in checked.out
    assert "Error: 'missing.py' cannot be loaded" in checked.err


def test_a_taken_port_of_flower_is_one_line(cli: Cli) -> None:
    cli("run", "flows.py:Loose")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        error = cli.error("flower", "--port", str(port))

    assert f"Flower cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port" in error


def test_an_invalid_workflow_is_one_line_of_dev_and_nothing_is_started(cli: Cli, tmp_path: Path) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text(
        "from umbel import StartEvent, Workflow, step\n\n"
        "class Endless(Workflow):\n"
        "    @step\n"
        "    async def go(self, ev: StartEvent) -> None: ...\n"
    )

    refused = cli("dev", str(endless), fails=True)

    assert refused.out == ""
    assert re.fullmatch(r"Error: .*StopEvent.*Workflow 'Endless' has the steps 'go'.*\n", refused.err)


def test_serve_without_its_extra_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    bare = Cli(cli.folder, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))

    assert "The HTTP server is not installed (uvicorn is missing). Install it with: pip" in bare.error(
        "serve", "flows.py"
    )


def test_a_worker_without_an_answering_redis_says_so_once(cli: Cli) -> None:
    with Terminal(cli, "worker", "flows.py", "--redis", "redis://127.0.0.1:1/0", columns=400) as worker:
        worker.says("Redis at redis://127.0.0.1:1/0 did not answer")
        worker.says("Trying again in 2.00 seconds")
        worker.says("Redis unreachable, retrying")
        worker.press_ctrl_c()
        assert worker.ends() == 0

    assert "Traceback" not in worker.text
    assert worker.text.count("Cannot connect") == 1
    assert worker.text.count("Redis unreachable, retrying") == 1


@pytest.mark.parametrize("command", ["worker", "serve", "run", "runs", "flower"])
def test_a_wrong_password_is_one_line(cli: Cli, durable_redis_url: str, command: str) -> None:
    url = re.sub(r"//.*?@|//", "//:wrong@", durable_redis_url, count=1)
    targets = ["flows.py:Loose"] if command in ("worker", "serve", "run") else []

    error = cli.error(command, *targets, "--redis", url)

    assert "refuses the credentials" in error


def test_all_commands_use_the_redis_of_a_celery_app(cli: Cli, durable_redis_url: str) -> None:
    (cli.folder / "proj.py").write_text(
        f"import umbel\nfrom celery import Celery\nfrom flows import Loose\n"
        f"app = Celery('proj', broker={durable_redis_url!r})\numbel.install(app, Loose)\n"
    )
    with cli.background("worker", "--app", "proj:app") as worker:
        worker.says("ready.")
        assert "Serves flows.Loose" in worker.err
        assert cli("run", "flows.py:Loose", "n=1", "--run-id", "in-app", "--app", "proj:app").out == "{'n': 1}\n"
        assert "in-app" in cli("runs", "--app", "proj:app").out
        assert "flows.Loose" in cli("show", "in-a", "--app", "proj:app").out
        address = durable_redis_url.rpartition("@")[2]
        assert f"{address} answers" in cli("doctor", "--app", "proj:app").out


def test_an_app_without_umbel_is_named(cli: Cli) -> None:
    (cli.folder / "plain.py").write_text("from celery import Celery\napp = Celery('plain')\n")

    assert "umbel is not installed in the Celery app 'plain:app'" in cli.error("runs", "--app", "plain:app")
    assert "The Celery app 'nothing:app' cannot be loaded" in cli.error("runs", "--app", "nothing:app")


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")])
def test_a_completion_script_is_printed(cli: Cli, shell: str, word: str) -> None:
    script = cli("completion", shell).out

    assert word in script
    assert f"_UMBEL_COMPLETE={shell}_complete" in script


def test_the_newest_run_and_beginnings_of_ids_name_runs(cli: Cli) -> None:
    for run_id in ("paid-1", "paid-2", "sent-1"):
        cli("run", "flows.py:Buy", "item=a", "--run-id", run_id)

    shown = cli("show", "last").out
    assert "sent-1" in shown
    assert '"item": "a"' in shown
    assert "paid-2" in cli("show", "paid-2").out
    assert "sent-1" in cli("show", "sen").out
    assert "2 runs begin with 'paid': " in cli.error("show", "paid")
    assert "No run 'lost'" in cli.error("show", "lost")

    # The run that was started last counts, not the one that ended last.
    for run_id in ("left-1", "left-2"):
        cli("start", "flows.py:Buy", "item=a", "--run-id", run_id)
    cli("cancel", "left-1")
    assert "left-2" in cli("show", "last").out
    cli("delete", "left-1")
    assert "No run 'left-1'" in cli.error("show", "left-1")
    cli("delete", "paid-2")
    cli("delete", "pai")
    assert "Not deleted: paid-1. There is no such run" in cli.error("delete", "paid-1")
