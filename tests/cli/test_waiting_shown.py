"""Progress, questions and Ctrl-C, as a person at a terminal sees them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from support.processes.command_line import Cli
from support.processes.terminal import Terminal

#: Each command is a process, and each `run` starts its own Redis and worker.
pytestmark = pytest.mark.timeout(180)

FLOWS = """
import asyncio
import time
from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Item(Event):
    n: int


class Done(Event):
    pass


class Decision(HumanResponseEvent):
    by: str
    approved: bool


class Fan(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(6)]

    @step(num_workers=2)
    async def work(self, ev: Item) -> Done:
        await asyncio.sleep(0.3)
        return Done()

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


class Ask(Workflow):
    @step
    async def ask(self, ev: StartEvent, ctx: Context) -> StopEvent:
        question = InputRequiredEvent(prefix="May it be sent?")
        answer = await ctx.wait_for_event(Decision, question, requirements={"by": "Ada"}, timeout=600)
        return StopEvent(result=f"{answer.by}: {answer.approved}")


class Returned(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Which one?")

    @step
    async def reply(self, ev: Decision) -> StopEvent:
        return StopEvent(result=ev.by)


class Plain(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Your name?")

    @step
    async def reply(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


class Astray(Workflow):
    @step
    async def wander(self, ev: StartEvent) -> Item:
        return Done()

    @step
    async def work(self, ev: Item) -> StopEvent:
        return StopEvent()


class Parent(Workflow):
    @step
    async def whole(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.run(Fan()))


class Blocked(Workflow):
    @step
    def block(self, ev: StartEvent) -> StopEvent:
        time.sleep(600)
        return StopEvent()
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with its own state folder."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return Cli(tmp_path, UMBEL_STATE_DIR=str(tmp_path / "state"))


def test_a_run_shows_its_id_its_time_and_how_far_each_fan_out_is(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Fan", "--run-id", "fanned", rows=30) as terminal:
        assert terminal.ends() == 0

    assert re.search(r"Run fanned  [\d.]+ m?s\n", terminal.text)
    assert re.search(r"work .*━+ [1-5] of 6", terminal.text)
    assert re.search(r"work .*━+ 6 of 6", terminal.last_frame)
    assert "split" in terminal.last_frame
    assert max(map(len, terminal.text.splitlines())) <= 80
    assert terminal.text.endswith("\n6\n")


def test_the_steps_of_a_run_are_shown_and_its_child_runs_are_not_among_them(cli: Cli) -> None:
    done = cli("run", "flows.py:Parent")

    assert done.out == "6\n"
    assert {line.partition(":")[0] for line in done.err.splitlines()[1:]} == {"whole"}
    assert re.search(r"^whole .* waited$", cli("show", done.err.split()[1]).out, re.MULTILINE)


def test_a_question_is_shown_with_its_time_limit_and_the_command_that_answers_it(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Ask", "--run-id", "asked", columns=160) as terminal:
        terminal.says("Answer with: umbel send asked Decision by=Ada approved=…")
        assert re.search(
            r"Waiting for Decision: May it be sent\? \(until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)", terminal.text
        )
        assert json.loads(cli("runs", "--status", "waiting", "--json").out)[0]["run_id"] == "asked"
        assert re.search(r"asked +waiting", cli("runs").out)
        shown = cli("show", "last").out
        assert "Waiting for Decision: May it be sent?" in shown
        assert "Status:     waiting" in shown
        assert "Answer with: umbel send asked Decision by=Ada approved=…" in shown
        assert (
            "no field 'aproved'. Did you mean 'approved'?"
            in cli("send", "asked", "Decision", "aproved=1", fails=True).err
        )
        assert "approved: Field required" in cli.error("send", "asked", "Decision", "by=Ada")
        assert "approved: Input should be a valid boolean" in cli.error(
            "send", "asked", "Decision", "by=Ada", "approved=so"
        )

        cli("send", "ask", "Decision", "by=Ada", "approved=true")
        assert terminal.ends() == 0

    assert terminal.text.endswith("Ada: True\n")
    assert cli("runs", "--status", "waiting").err == "No matching runs.\n"
    assert "waiting" not in cli("show", "asked").out


def test_a_question_that_a_step_returned_is_shown_too(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Returned", "--run-id", "returned", columns=160) as terminal:
        terminal.says("Waiting for Decision: Which one?")
        terminal.says("Answer with: umbel send returned Decision by=… approved=…")
        cli("send", "returned", "Decision", "by=3", "approved=true")
        assert terminal.ends() == 0

    assert terminal.text.endswith("3\n"), "the field is text, and what looks like a number is its text"


def test_an_answer_is_read_by_the_types_of_a_target_too(cli: Cli) -> None:
    loading = Cli(cli.folder, UMBEL_STATE_DIR=cli.environment["UMBEL_STATE_DIR"], UMBEL_TARGETS="flows.py")
    with Terminal(cli, "run", "flows.py:Returned", "--run-id", "returned", columns=160) as terminal:
        terminal.says("Waiting for Decision: Which one?")
        loading("send", "returned", "Decision", "by=4", "approved=yes")
        assert terminal.ends() == 0

    assert terminal.text.endswith("4\n")


@pytest.mark.parametrize("workflow", ["Ask", "Blocked"])
def test_ctrl_c_ends_a_run_within_two_seconds_and_says_how_to_resume_it(cli: Cli, workflow: str) -> None:
    with Terminal(cli, "run", f"flows.py:{workflow}", "--run-id", "ended") as terminal:
        terminal.says("Run ended")
        terminal.says("Answer with" if workflow == "Ask" else "block")
        began = time.monotonic()
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
        took = time.monotonic() - began

    assert "Cancelled run 'ended'. Resume it with: umbel retry ended" in terminal.text
    assert "Traceback" not in terminal.text
    assert "|" not in terminal.text
    assert took < 10  # two seconds on an idle machine


def test_a_question_that_any_human_response_answers_is_shown_with_the_custom_name_of_the_answer(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Plain", "--run-id", "asked", columns=160) as terminal:
        terminal.says("Waiting for HumanResponseEvent: Your name?")
        terminal.says("Answer with: umbel send asked HumanResponseEvent response=…")
        assert re.search(r"asked +waiting", cli("runs", "--status", "waiting").out)
        cli("send", "asked", "HumanResponseEvent", "response=Ada")
        assert terminal.ends() == 0
    assert terminal.text.endswith("\nAda\n")


def test_a_run_whose_event_no_step_accepts_says_so_once(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Astray", "--run-id", "astray", columns=160) as terminal:
        terminal.says("No step accepts or waits for: Done. Check what the steps return and send.")
        assert "No step accepts or waits for: Done." in cli("show", "astray").err
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
    assert terminal.text.count("No step accepts") == 1


def test_a_run_of_a_paused_workflow_says_what_it_waits_for(cli: Cli, durable_redis_url: str) -> None:
    with Terminal(cli, "worker", "flows.py", "--redis", durable_redis_url, columns=160) as worker:
        worker.says("ready.")
        cli("pause", "--workflow", "Fan", "--redis", durable_redis_url)
        with Terminal(cli, "run", "flows.py:Fan", "--redis", durable_redis_url, columns=160) as terminal:
            terminal.says("its workflow is paused. Resume it with: umbel resume --workflow Fan")
            cli("resume", "--workflow", "Fan", "--redis", durable_redis_url)
            assert terminal.ends() == 0
    assert terminal.text.count("is paused") == 1


def test_a_second_ctrl_c_ends_a_run_at_once(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Blocked", "--run-id", "ended") as terminal:
        terminal.says("block")
        terminal.press_ctrl_c()
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
        assert "Traceback" not in terminal.text


def test_ctrl_c_ends_dev_although_a_step_goes_on(cli: Cli) -> None:
    with Terminal(cli, "dev", "flows.py", "--no-server") as dev:
        dev.says("ready.")
        cli("start", "flows.py:Blocked", "--run-id", "goes-on")
        with cli.background("events", "goes-on", "--follow", "--internal") as following:
            following.says('"step_state": "running"')
            dev.press_ctrl_c()
            assert dev.ends() == 0

    assert "Steps that do not end now run again with the next worker." in dev.text
    assert "|" not in dev.text
    assert "Traceback" not in dev.text


def test_ctrl_c_ends_a_worker_without_an_error(cli: Cli, durable_redis_url: str) -> None:
    with Terminal(cli, "worker", "flows.py", "--redis", durable_redis_url, columns=160) as worker:
        worker.says("ready.")
        worker.press_ctrl_c()
        assert worker.ends() == 0


def test_ctrl_c_ends_a_command_that_follows_a_run(cli: Cli) -> None:
    with Terminal(cli, "run", "flows.py:Ask", "--run-id", "asked") as run:
        run.says("Answer with")
        with Terminal(cli, "events", "asked", "--follow") as following:
            following.says("InputRequiredEvent")
            following.press_ctrl_c()
            assert following.ends() == 130
        assert "Traceback" not in following.text
        assert "Aborted" not in following.text
