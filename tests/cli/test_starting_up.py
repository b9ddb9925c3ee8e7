"""Startup of commands: what needs no user code is answered at once, and Ctrl-C shows no Python traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes.command_line import Cli
from support.processes.terminal import Terminal
from umbel.workers.cli.main import COMMANDS

BLOCKING = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
#: Commands that read runs and start nothing; an import contract lists their modules too.
READING = (
    "runs",
    "show",
    "events",
    "logs",
    "failed",
    "history",
    "diff",
    "verify",
    "sessions",
    "pause",
    "resume",
    "ping",
)
REFUSING = "raise AssertionError('imported')\n"


def with_modules(folder: Path, source: str, *names: str) -> Cli:
    """Return a command line in which these modules are replaced."""
    (folder / "first").mkdir()
    for name in names:
        (folder / "first" / f"{name}.py").write_text(source)
    return Cli(folder, PYTHONPATH=os.pathsep.join([str(folder / "first"), *sys.path]))


def test_help_completion_and_a_mistyped_command_import_nothing_large(tmp_path: Path) -> None:
    cli = with_modules(tmp_path, REFUSING, "celery", "pydantic", "redis")

    assert "imported" in cli("runs", fails=True).err
    assert "List the newest runs." in cli("--help").out
    assert "Did you mean 'run'?" in cli("rnu", fails=True).err
    assert "_UMBEL_COMPLETE" in cli("completion", "bash").out
    cli.environment |= {"_UMBEL_COMPLETE": "bash_complete", "COMP_WORDS": "umbel run", "COMP_CWORD": "1"}
    assert cli().out == "plain,run\nplain,runs\n"


def test_commands_that_only_read_import_neither_celery_nor_what_executes_steps() -> None:
    modules = sorted({f"umbel.workers.cli{COMMANDS[command].module}" for command in READING})
    program = "import importlib, sys; [importlib.import_module(each) for each in sys.argv[1:]]; print(*sys.modules)"

    found = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True)

    imported = set(found.stdout.split())
    assert imported >= set(modules)
    assert imported.isdisjoint({"celery", "kombu", "umbel.tasks"})


@pytest.mark.parametrize("command", [["runs"], ["run", "flow.py"], ["worker", "flow.py"], ["dev", "flow.py"]])
def test_ctrl_c_while_a_command_is_loaded_ends_it_without_a_traceback(tmp_path: Path, command: list[str]) -> None:
    with Terminal(with_modules(tmp_path, BLOCKING, "redis"), *command) as terminal:
        terminal.says("importing")
        terminal.press_ctrl_c()
        assert terminal.ends() == 130

    assert terminal.text.replace("^C", "").split() == ["importing"]


@pytest.mark.parametrize("command", ["run", "worker", "dev", "check", "serve"])
def test_ctrl_c_while_the_users_code_is_loaded_ends_a_command_without_a_traceback(tmp_path: Path, command: str) -> None:
    (tmp_path / "flow.py").write_text(BLOCKING)

    with Terminal(Cli(tmp_path, UMBEL_REDIS_URL="redis://127.0.0.1:1/0"), command, "flow.py") as terminal:
        terminal.says("importing")
        terminal.press_ctrl_c()
        assert terminal.ends() == 130

    assert "Traceback" not in terminal.text
