"""The option `--llama-index` of the commands that load a user's module."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.processes.command_line import Cli

#: Each command is a process; `run` starts a Redis and a worker.
pytestmark = pytest.mark.timeout(120)

FLOWS = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent


class Greeter(Workflow):
    def __init__(self, word):
        super().__init__()
        self.word = word

    @step
    async def greet(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"{self.word}, {ev.name}")


greeter = Greeter("Moin")


class Outer(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await greeter.run(name=ev.name))
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line in a folder with workflows for LlamaIndex."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return Cli(tmp_path, UMBEL_STATE_DIR=str(tmp_path / "state"))


def test_a_module_for_llama_index_is_refused_with_the_option_that_loads_it(cli: Cli) -> None:
    assert "flows is written for LlamaIndex: add --llama-index." in cli.error("check", "flows.py")
    assert "flows is written for LlamaIndex: add --llama-index." in cli.error("start", "flows.py:Outer", "name=Ada")
    assert "flows.Outer: OK" in cli("check", "--llama-index", "flows.py").out


def test_a_run_executes_other_workflows_that_are_variables_of_the_module(cli: Cli) -> None:
    assert cli("run", "--llama-index", "flows.py:Outer", "name=Ada").out == "Moin, Ada\n"
