"""`umbel …` on a configured Redis: commands as processes, with one real worker."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.processes.command_line import FLOWS, Cli, environment
from umbel.workers.embedded.redis_server import EmbeddedRedis


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis.temporary() as server:
        yield server.url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `flows.py` in it."""
    path = tmp_path_factory.mktemp("project")
    (path / "flows.py").write_text(FLOWS)
    return path


@pytest.fixture(scope="module")
def bare(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line where no Redis is configured and none has ever run."""
    return Cli(folder, UMBEL_STATE_DIR=str(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="module")
def idle(folder: Path, redis_url: str) -> Cli:
    """The command line on a Redis without workers, with its own key prefix."""
    return Cli(folder, UMBEL_REDIS_URL=redis_url, UMBEL_KEY_PREFIX="idle")


@pytest.fixture(scope="module")
def cli(folder: Path, redis_url: str) -> Iterator[Cli]:
    """The command line on a Redis with a worker."""
    configured = Cli(folder, UMBEL_REDIS_URL=redis_url)
    served = [f"flows:{name}" for name in ("Squares", "Typed", "Order", "Ask", "Slow")]
    with configured.background("worker", *served, "--pool", "threads", "--concurrency", "8") as worker:
        worker.says("ready.")
        yield configured
        worker.process.kill()  # a step that waits for ten minutes is still executing


def shown(cli: Cli, run_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(cli("show", run_id, "--json").out)
    return answer


def status(cli: Cli, run_id: str) -> str:
    return str(shown(cli, run_id)["status"])


# -- run ---------------------------------------------------------------------------------------------------------------


def test_a_run_prints_its_result_alone_on_stdout_and_its_progress_on_stderr(cli: Cli) -> None:
    (cli.folder / "four.json").write_text('{"count": 4}')

    done = cli("run", "flows.py:Squares", "--input", "@four.json")

    assert done.out == "{'total': 14}\n"
    assert "split: 1 done" in done.err
    assert "square: 4 done" in done.err


def test_a_result_is_printed_as_json_when_asked_for(cli: Cli) -> None:
    assert json.loads(cli("run", "flows:Squares", "--input", "@-", "--json", stdin='{"count": 3}').out) == {"total": 5}
    assert json.loads(cli("run", "flows:Typed", "--json").out) == {"total": 42}


def test_a_failed_run_exits_with_1_and_says_where_and_why(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "flows:Order", f"folder={tmp_path}", "--run-id", "declined", fails=True)

    assert done.code == 1
    assert done.out == ""
    assert done.err.endswith(
        "Run 'declined' failed in step 'charge' on attempt 1: CardDeclined('limit reached'). "
        "For details: umbel show declined\n"
    )


def test_a_run_on_a_configured_redis_continues_when_its_command_is_interrupted(cli: Cli) -> None:
    with cli.background("run", "flows:Slow", "--run-id", "interrupted") as command:
        command.says("wait: 1 running")
        command.interrupt()
        done = command.wait()

    assert done.code == 130
    assert "Run 'interrupted' continues. Follow it with: umbel events interrupted --follow" in done.err
    assert status(cli, "interrupted") == "running"


def test_a_caller_that_waits_without_a_worker_is_warned(idle: Cli) -> None:
    with idle.background("run", "flows:Squares", "count=1") as command:
        command.says("No live worker serves 'flows.Squares'")


def test_an_error_in_the_command_is_reported_before_anything_is_started(cli: Cli) -> None:
    both = cli("run", "flows:Squares", "count=1", "--input", '{"count": 2}', fails=True)
    assert both.code == 2
    assert "'count' is given in both --input and KEY=VALUE" in both.err
    assert "count: Field required" in cli.error("run", "flows:Squares")
    assert "'flows' has 7 workflows" in cli.error("run", "flows")


def test_an_error_shows_its_traceback_when_asked_for(cli: Cli) -> None:
    done = cli("--traceback", "show", "nosuch", fails=True)

    assert "Traceback (most recent call last)" in done.err
    assert "RunNotFound: No run 'nosuch'" in done.err


# -- start, runs, show, events -----------------------------------------------------------------------------------------


def test_a_started_run_is_followed_listed_and_shown_by_other_commands(cli: Cli) -> None:
    run_id = cli("start", "flows:Squares", "count=2").out.strip()

    followed = cli("events", run_id, "--follow").out.splitlines()
    assert [line.split("  ")[1] for line in followed] == ["Squared", "Squared", "StopEvent"]
    assert followed[-1].endswith('  StopEvent  {"result": {"total": 1}}')
    first = int(followed[0].split()[0])
    logged = [json.loads(line) for line in cli("events", run_id, "--after", str(first), "--json").out.splitlines()]
    assert [event["type"] for event in logged] == ["flows.Squared", "umbel.StopEvent"]
    assert logged[0]["step"] == "square"
    assert logged[0]["attempt"] == 1
    assert "step_state" in cli("events", run_id, "--internal").out

    listed = json.loads(cli("runs", "--workflow", "Squares", "--status", "completed", "--json").out)
    assert run_id in [run["run_id"] for run in listed]
    assert {run["workflow"] for run in listed} == {"flows.Squares"}

    text = cli("show", run_id).out
    assert "Status:     completed" in text
    assert "Executions: 4 done" in text
    rows = [line.split()[:2] for line in text.partition("OUTCOME\n")[2].splitlines()]
    assert sorted(rows) == [["split", "1"], ["square", "1"], ["square", "1"], ["total", "1"]]
    details = shown(cli, run_id)
    assert details["result"] == {"total": 1}
    assert all(execution["worker"].startswith("umbel-") for execution in details["executions"])
    assert all(execution["seconds"] >= 0 for execution in details["executions"])


def test_a_start_without_a_worker_says_that_the_run_waits(idle: Cli) -> None:
    done = idle("start", "flows:Squares", "count=1", "--run-id", "patient")

    assert done.out == "patient\n"
    assert "No live worker serves 'flows.Squares'; start one" in done.err
    assert "dispatched to queue 'umbel', not yet claimed by a worker" in idle("show", "patient").out
    for command in (("fork", "patient", "--from", "1"), ("rewind", "patient", "--from", "1", "--stop-running")):
        assert "No live worker serves 'flows.Squares'; start one" in idle(*command).err
    assert "'patient' already exists" in idle.error("start", "flows:Squares", "count=1", "--run-id", "patient")


def test_a_run_that_does_not_exist_is_one_line_of_error_in_every_command(cli: Cli) -> None:
    for command in (("show",), ("events", "--follow"), ("retry",)):
        assert "No run 'nosuch'" in cli.error(*command, "nosuch")
    assert "cannot be a run id" in cli.error("events", "no such")


# -- acting on a run ---------------------------------------------------------------------------------------------------


def test_a_waiting_run_shows_what_it_waits_for_and_accepts_an_event_by_its_short_name(cli: Cli) -> None:
    with cli.background("run", "flows:Ask", "--run-id", "asking") as command:
        command.says("Answer with: umbel send asking Approved by=…")
        assert "waiting for flows.Approved" in cli("show", "asking").out

        assert "accepts no event 'Aproved'. It accepts: " in cli.error("send", "asking", "Aproved", "by=ada")
        assert "by: Field required" in cli.error("send", "asking", "Approved", "--target", "flows:Talk")
        cli("send", "asking", "Approved", "by=ada")
        done = command.wait()

    assert done.out == "approved by ada\n"
    assert [execution["outcome"] for execution in shown(cli, "asking")["executions"]] == ["waiting", "done"]
    assert "has ended" in cli.error("send", "asking", "Approved", "by=ada")


def test_a_cancelled_run_is_over(cli: Cli) -> None:
    with cli.background("run", "flows:Slow", "--run-id", "doomed") as command:
        command.says("wait: 1 running")
        cli("cancel", "doomed")
        done = command.wait()

    assert done.code == 1
    assert "Run 'doomed' was cancelled." in done.err
    assert status(cli, "doomed") == "cancelled"
    cli("cancel", "doomed")


def test_a_completed_run_can_be_neither_cancelled_nor_retried(cli: Cli) -> None:
    cli("run", "flows:Typed", "--run-id", "complete")

    assert "its status is completed" in cli.error("cancel", "complete")
    assert "has completed; there is nothing to retry" in cli.error("retry", "complete")


def test_a_retry_takes_up_the_failed_step_and_keeps_the_rest(cli: Cli, tmp_path: Path) -> None:
    cli("run", "flows:Order", f"folder={tmp_path}", "--run-id", "again", fails=True)
    (tmp_path / "money").touch()

    assert "resumes with 1 step" in cli("retry", "again").err

    eventually(lambda: status(cli, "again") == "completed", "the run completes")
    assert (tmp_path / "prepared").read_text() == "x"
    outcomes = [(each["step"], each["outcome"]) for each in shown(cli, "again")["executions"]]
    assert outcomes == [("prepare", "done"), ("charge", "failed"), ("charge", "done")]
    assert "CardDeclined: limit reached" in cli("show", "again").out


# -- worker ------------------------------------------------------------------------------------------------------------


def test_a_worker_without_a_redis_refuses_and_names_what_to_do(bare: Cli) -> None:
    error = bare.error("worker", "flows:Squares")

    assert "UMBEL_REDIS_URL=redis://" in error
    assert "umbel dev TARGET" in error


def test_a_worker_says_what_it_cannot_serve_before_it_starts(cli: Cli) -> None:
    assert (
        "'green' is not one of 'asyncio', 'prefork', 'threads', 'solo'"
        in cli("worker", "flows:Squares", "--pool", "green", fails=True).err
    )
    assert "it has no 'Nothing'" in cli.error("worker", "flows:Nothing")
    assert "consumed but never produced: Squared" in cli("worker", "flows:Unsound", fails=True).err
    assert "UMBEL_TARGETS is not set" in cli("worker", fails=True).err


def test_a_worker_takes_its_targets_from_the_environment_and_its_queues_from_the_steps(
    folder: Path, redis_url: str
) -> None:
    (folder / "queues.py").write_text(
        FLOWS.partition("class Typed")[0].replace(
            "    @step\n    async def square", '    @step(queue="hard")\n    async def square'
        )
    )
    configured = Cli(folder, UMBEL_REDIS_URL=redis_url, UMBEL_KEY_PREFIX="queues", UMBEL_TARGETS="queues:Squares")

    with configured.background("worker", "--concurrency", "1", "-n", "ada", "-E") as worker:
        worker.says("ready.")
        assert f"umbel worker ada@{socket.gethostname()} (asyncio, concurrency 1), queues: umbel, hard" in worker.err
        assert "Serves queues.Squares: split, square, total" in worker.err
        assert configured("run", "queues:Squares", "count=2").out == "{'total': 1}\n"
        seen = json.loads(configured("doctor", "--json").out)
        worker.process.send_signal(signal.SIGTERM)
        done = worker.wait()

    assert any("serves queues.Squares, from queues hard, umbel" in finding["text"] for finding in seen)
    assert done.code == 0
    assert "No live worker" in configured("doctor").out


# -- inspecting workflows ----------------------------------------------------------------------------------------------


def test_check_reports_every_fault_of_every_workflow(bare: Cli) -> None:
    assert bare("check", "flows:Squares", "flows:Order").out == (
        "flows.Squares: OK (3 steps)\nflows.Order: OK (2 steps)\n"
    )

    done = bare("check", "flows.py", fails=True)

    assert done.code == 1
    assert "Unsound: invalid" in done.out
    assert "Item" in done.out
    assert "Squared" in done.out
    assert "flows.Ask: OK (1 step" in done.out
    assert done.err == "1 of 7 workflows is invalid.\n"


def test_a_graph_shows_which_step_passes_which_event_to_which(bare: Cli) -> None:
    edges = json.loads(bare("graph", "flows:Squares", "--format", "json").out)["edges"]

    assert [(edge["source"], edge["target"], edge.get("kind")) for edge in edges] == [
        ("split", "Item", "fan-out"),
        ("Numbers", "split", None),
        ("square", "Squared", None),
        ("Item", "square", None),
        ("total", "StopEvent", None),
        ("Squared", "total", "fan-in"),
    ]
    assert bare("graph", "flows:Squares", "--format", "mermaid").out.startswith("flowchart TD\n")


# -- doctor, flower, exec ----------------------------------------------------------------------------------------------


def test_the_doctor_exits_with_1_only_for_what_loses_data(cli: Cli) -> None:
    done = cli("doctor")
    assert "durability: appendfsync everysec" in done.out
    assert "serves flows.Squares, flows.Typed" in done.out

    away = cli("doctor", "--redis", "redis://127.0.0.1:1/0", fails=True)

    assert away.code == 1
    assert "DANGER" in away.out
    assert "correct UMBEL_REDIS_URL" in away.out


def test_flower_serves_the_deployment_and_is_asked_for_where_it_is_missing(cli: Cli) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with cli.background("flower", "--port", str(port)) as flower:

        def answers() -> bool:
            assert flower.process.poll() is None, flower.wait()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5) as reply:
                    return bool(reply.read() == b"OK")
            except OSError:
                return False

        eventually(answers, "Flower answers")

    missing = "import sys; sys.modules['flower'] = None; from umbel.workers.cli.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", missing, "flower"], env=environment(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == "Error: Flower is not installed. Install it with: pip install 'umbel[flower]'\n"


PROGRAM = """
import asyncio, sys
from flows import Squares
from umbel import StartEvent, StopEvent, Workflow, step

def test_case(): ...

async def main():
    seen = asyncio.Event()

    class Local(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            seen.set()
            return StopEvent(result=ev.word)

    print(await Local().run(word=sys.argv[1]), seen.is_set(), __name__)
    print(await Squares().run(count=3))
    if sys.argv[1] == "--fail":
        raise LookupError("my own fault")
    sys.exit(7)

asyncio.run(main())
"""


def test_exec_executes_an_unchanged_program_with_its_arguments_and_exit_code(bare: Cli) -> None:
    (bare.folder / "program.py").write_text(PROGRAM)

    done = bare("exec", "program.py", "hello", fails=True)

    assert done.out == "hello True __main__\n{'total': 5}\n"
    assert done.code == 7


def test_a_program_that_starts_no_run_under_exec_is_named(bare: Cli) -> None:
    (bare.folder / "only.py").write_text(FLOWS.partition("if __name__")[0])
    done = bare("exec", "only.py")
    assert done.err.endswith(
        "only.py has started no run. Start one of a workflow in it with: umbel run only.py KEY=VALUE…\n"
    )


def test_a_program_that_fails_under_exec_shows_its_own_traceback_only(bare: Cli) -> None:
    (bare.folder / "program.py").write_text(PROGRAM)

    done = bare("exec", "program.py", "--fail", fails=True)

    assert done.code == 1
    assert done.err.endswith("LookupError: my own fault\n")
    assert 'File "program.py"' in done.err
    assert "runpy" not in done.err


def test_looking_without_any_redis_says_how_to_get_one(bare: Cli) -> None:
    for command in (("runs",), ("start", "flows:Squares", "count=1")):
        error = bare.error(*command)
        assert "neither --redis nor UMBEL_REDIS_URL" in error
        assert "umbel run TARGET" in error
