"""The code that runs is the code of the project, in its current version."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.eventually import eventually
from support.processes.command_line import Cli
from support.processes.terminal import Terminal
from umbel.workers.cli.start.reload import Programs

#: Each command is a process, and each `run` starts its own Redis and worker.
pytestmark = pytest.mark.timeout(180)

FLOW = """
from umbel import StartEvent, StopEvent, Workflow, step
from words import WORD


class Say(Workflow):
    @step
    async def say(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=WORD)
"""


def project(folder: Path, word: str) -> Cli:
    """A folder with one workflow, which uses a module in the same folder."""
    folder.mkdir()
    (folder / "flow.py").write_text(FLOW)
    (folder / "words.py").write_text(f"WORD = {word!r}\n")
    return Cli(folder, UMBEL_STATE_DIR=str(folder.parent / "state"), UMBEL_DRAIN_SECONDS="5")


@pytest.fixture
def one(tmp_path: Path) -> Cli:
    """A project."""
    return project(tmp_path / "one", "one")


def test_two_projects_with_files_of_one_name_execute_their_own_code(one: Cli, tmp_path: Path) -> None:
    two = project(tmp_path / "two", "two")

    with Terminal(one, "dev", "flow.py", "--no-server") as dev:
        dev.says("ready.")

        assert two("run", "flow.py").out == "two\n"
        assert one("run", "flow.py").out == "one\n"
        assert two("runs", "--json").out.count("run_id") == 1


def test_dev_restarts_with_changed_code_and_run_waits_for_it(one: Cli) -> None:
    with Terminal(one, "dev", "flow.py", "--no-server") as dev:
        dev.says("ready.")
        (one.folder / "words.py").write_text("WORD = 'changed'\n")

        assert one("run", "flow.py").out == "changed\n"
        dev.says("words.py has changed: restarting.")
        dev.press_ctrl_c()
        assert dev.ends() == 0


def test_code_that_cannot_be_loaded_is_reported_and_the_next_change_is_waited_for(one: Cli) -> None:
    with Terminal(one, "dev", "flow.py", "--no-server", columns=200) as dev:
        dev.says("ready.")
        (one.folder / "words.py").write_text("WORD = \n")
        dev.says("words.py, line 1: SyntaxError")
        dev.says("The changed code cannot be run.")
        (one.folder / "words.py").write_text("WORD = 'mended'\n")
        eventually(lambda: dev.text.count("ready.") == 2, "the worker is there again")

        assert one("run", "flow.py").out == "mended\n"


def test_an_error_of_the_code_that_several_programs_print_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    programs = Programs(None, print)

    for line in ("Error: no code", "Traceback", "Error: no code", "Traceback", "Error: no port"):
        programs.show(line)

    assert capsys.readouterr().err.splitlines() == ["Error: no code", "Traceback", "Traceback", "Error: no port"]


def test_a_worker_with_other_code_is_named_with_both_paths(one: Cli, tmp_path: Path) -> None:
    two = project(tmp_path / "two", "two")
    with Terminal(one, "dev", "flow.py", "--no-server", "--state", "shared") as dev:
        dev.says("ready.")

        refused = two("run", "flow.py", "--state", "shared", fails=True)

        assert (
            f"executes other code of flow.Say: {one.folder}/flow.py, not {two.folder}/flow.py. Restart it"
            in refused.err
        )
        assert refused.out == ""


def test_without_reload_old_code_is_named(one: Cli) -> None:
    with Terminal(one, "dev", "flow.py", "--no-server", "--no-reload") as dev:
        dev.says("ready.")
        (one.folder / "words.py").write_text("WORD = 'changed'\n")

        started = one("start", "flow.py")

        assert f"executes other code of flow.Say: {one.folder}/flow.py before it was changed." in started.err
