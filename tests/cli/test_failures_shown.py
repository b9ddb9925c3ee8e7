"""Failures and printed output of steps, as a person sees them: complete, once, and with the step's name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.processes.command_line import Cli
from support.processes.terminal import Terminal

#: Each command is a process, and each `run` starts its own Redis and worker.
pytestmark = pytest.mark.timeout(180)

FLOWS = """
from umbel import Context, Event, StartEvent, StepFailedEvent, StopEvent, Workflow, catch_error, step
from umbel.retry_policy import ConstantDelayRetryPolicy


class Item(Event):
    n: int


class Done(Event):
    n: int


def charge(n):
    raise LookupError(f"no card {n} at https://shop:hunter2@bank.example/cards")


class Bad(Workflow):
    @step
    async def first(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(3)]

    @step
    async def second(self, ev: Item) -> Done:
        print("number", ev.n)
        return Done(n=ev.n)

    @step
    def last(self, evs: list[Done]) -> StopEvent:
        print("before the end")
        charge(7)


class Rescued(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=0.01))
    async def first(self, ev: StartEvent) -> Item:
        charge(1)

    @step
    async def second(self, ev: Item) -> StopEvent:
        return StopEvent()

    @catch_error
    async def rescue(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result="rescued")
"""

#: Sequences that would make a terminal change its title, clear its screen, overwrite a line and reverse the text.
OBEYED = "\x1b]0;mine\x07\x1b[2J\rover\x9b1m\u202eback"

FLOWS += """
import logging


class Obeyed(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Item(n=1, text=ev.text))
        logging.getLogger("shop").error(ev.text)
        raise LookupError(ev.text)
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line with its own state folder."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "flows.py").write_text(FLOWS)
    return Cli(folder, UMBEL_STATE_DIR=str(folder / "state"))


def trace(folder: Path) -> str:
    lines = FLOWS.splitlines()
    raising = next(n for n, line in enumerate(lines, 1) if "raise LookupError" in line)
    calling = next(n for n, line in enumerate(lines, 1) if "charge(7)" in line)
    marks = "    ~~~~~~^^^\n" if sys.version_info >= (3, 13) else ""
    return (
        "Traceback (most recent call last):\n"
        f'  File "{folder}/flows.py", line {calling}, in last\n'
        f"    charge(7)\n{marks}"
        f'  File "{folder}/flows.py", line {raising}, in charge\n'
        '    raise LookupError(f"no card {n} at https://shop:***@bank.example/cards")\n'
        "LookupError: no card 7 at https://shop:***@bank.example/cards\n"
    )


def test_a_terminal_shows_the_traceback_whole_and_below_everything_else(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Bad", "--run-id", "bad", columns=200) as terminal:
        assert terminal.ends() == 1

    assert trace(cli.folder) + "Run 'bad' failed in step 'last'" in terminal.text
    assert terminal.text.count("LookupError: no card 7") == 1
    assert terminal.text.count("[last] before the end\n") == 1
    assert {f"[second] number {n}" for n in range(3)} <= set(terminal.text.splitlines())


def test_a_redirected_run_loses_nothing_that_its_steps_print(cli: Cli) -> None:
    for _ in range(3):
        done = cli("run", "flows.py:Bad", fails=True)

        assert trace(cli.folder) in done.err
        assert "[last] before the end\n" in done.err
        assert sorted(line for line in done.err.splitlines() if "number" in line) == [
            f"[second] number {n}" for n in range(3)
        ]


def test_the_traceback_is_shown_by_all_that_shows_the_run(cli: Cli) -> None:
    cli("run", "flows.py:Bad", "--run-id", "looked-at", fails=True)

    assert f"last, attempt 1:\n{trace(cli.folder)}" in cli("show", "looked-at").out
    whole = json.loads(cli("show", "looked-at", "--json").out)
    assert whole["traceback"] + "\n" == trace(cli.folder)
    assert [each["traceback"] for each in whole["executions"] if each["traceback"]] == [whole["traceback"]]
    assert "\n    LookupError: no card 7" in cli("events", "looked-at").out
    [failed] = [json.loads(line) for line in cli("events", "looked-at", "--json").out.splitlines()]
    assert failed["value"]["exception"]["exception_traceback"] == whole["traceback"]


def test_the_log_begins_at_the_step_too(cli: Cli) -> None:
    (cli.folder / "program.py").write_text(
        "import asyncio, flows\nasyncio.run(flows.Bad().run().stop_event_result())\n"
    )

    done = cli("exec", "program.py")

    assert "failed on attempt 1: LookupError('no card 7" in done.err
    assert trace(cli.folder) in done.err


def test_a_failure_that_is_taken_care_of_is_one_line(cli: Cli) -> None:
    done = cli("run", "flows.py:Rescued", "--run-id", "rescued")

    assert done.out == "rescued\n"
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if "LookupError" in line]) == 1
    assert "attempt 2: LookupError('no card 1" in done.err
    assert "handled by rescue" in done.err
    attempts = json.loads(cli("show", "rescued", "--json").out)["executions"]
    assert [bool(each["traceback"]) for each in attempts] == [True, True, False]
    shown = cli("show", "rescued").out
    assert "first, attempt 1, 2:\nTraceback" in shown
    assert shown.count("Traceback") == 1


def test_a_terminal_obeys_nothing_that_events_and_errors_hold(cli: Cli) -> None:
    cli("run", "flows.py:Obeyed", f"text={OBEYED}", "--run-id", "obeyed", fails=True)

    for command in (("show", "obeyed"), ("events", "obeyed"), ("logs", "obeyed"), ("failed",), ("runs",)):
        shown = cli(*command)
        assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(shown.out + shown.err), command
    assert repr(OBEYED)[1:-1] in cli("show", "obeyed").out
    assert repr(OBEYED)[1:-1] in cli("logs", "obeyed").out
