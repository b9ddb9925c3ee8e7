"""Programs written for LlamaIndex Workflows run after changing only their import lines.

`programs/` has them as their authors wrote them. Here one regular expression replaces the import root in import lines,
and each program is executed: alone under `umbel exec`, and on worker processes that share one Redis.
"""

from __future__ import annotations

import ast
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.eventually import eventually
from support.store.blocking import store_of
from umbel import Runtime, Settings
from umbel.orchestration.inspection.timeline import Execution, executions
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

PROGRAMS = Path(__file__).with_name("programs")
UMBEL = str(Path(sys.executable).with_name("umbel"))
#: Timeouts of waits and runs are noticed within moments.
QUICK = {"UMBEL_SWEEP_SECONDS": "0.2"}
SECONDS = 50

IMPORT_ROOT = re.compile(r"^(from|import) workflows\b", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """One program, the input its user types, and the output it then prints."""

    name: str
    typed: str
    printed: str

    @property
    def original(self) -> str:
        """The text as its author wrote it."""
        return (PROGRAMS / f"{self.name}.py.txt").read_text()

    @property
    def ported(self) -> str:
        """The text with another import root."""
        return IMPORT_ROOT.sub(r"\1 umbel", self.original)


ESSAY_WRITER = Program(
    "essay_writer",
    typed="",
    printed="""\
[outlining 'rivers']
[drafting 2 sections]
An
essay
about
rivers
has
a
beginning
and
an
end
[round 1: too short]
[revising, since it is too short]
[round 2: good]
rivers, 2 rounds: An essay about rivers has a beginning and an end. So it goes.
attempts: 3
""",
)
TRAVEL_DESK = Program(
    "travel_desk",
    typed="Oslo\nyes\nno\n",
    printed="""\
Where to, Ada? manager, may it be 400? accountant, may it be 400? \

Ada goes to Oslo for 400: ['manager']
Grace answered me
nobody answered
WorkflowTimeoutError
""",
)
PRICE_SURVEY = Program(
    "price_survey",
    typed="",
    printed="""\
tea: shop 10 of 12 at 103.00, 30 in stock, 3 stars (12 shops were asked)
lamp: shop 11 of 12 at 101.00, 40 in stock, 4 stars (12 shops were asked)
umbrella: shop 10 of 12 at 108.00, 80 in stock, 8 stars (12 shops were asked)
""",
)
ALL = [ESSAY_WRITER, TRAVEL_DESK, PRICE_SURVEY]
EVERY_PROGRAM = pytest.mark.parametrize("program", ALL, ids=lambda program: program.name)


def execute(command: list[str], program: Program, folder: Path, **variables: str) -> str:
    """Run a program to a successful end while its user types; return what it printed."""
    done = subprocess.run(
        [*command, f"{program.name}.py"],
        cwd=folder,
        env=os.environ | QUICK | variables,
        input=program.typed,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stderr == ""
    return done.stdout


def test_every_program_is_here() -> None:
    assert sorted(path.name for path in PROGRAMS.iterdir()) == sorted(f"{program.name}.py.txt" for program in ALL)


@EVERY_PROGRAM
def test_only_import_lines_are_changed(program: Program) -> None:
    before, after = program.original.splitlines(), program.ported.splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]

    assert len(changed) >= 2
    assert all(new == IMPORT_ROOT.sub(r"\1 umbel", old) for old, new in changed)
    imports = [node for node in ast.walk(ast.parse(program.original)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {old for old, _ in changed} <= {before[node.lineno - 1] for node in imports}
    assert "umbel" not in program.original
    assert "workflows" not in " ".join(new for _, new in changed)


@EVERY_PROGRAM
def test_it_runs_by_itself(program: Program, tmp_path: Path) -> None:
    (tmp_path / f"{program.name}.py").write_text(program.ported)

    assert execute([UMBEL, "exec"], program, tmp_path) == program.printed


# -- on worker processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """Ends everything the tests below start, even when they are killed."""
    with Supervisor() as made:
        yield made


@pytest.fixture(scope="module")
def redis_url(supervisor: Supervisor) -> Iterator[str]:
    """One Redis for all programs, which are separated by key prefixes."""
    with EmbeddedRedis.temporary(supervisor=supervisor) as server:
        yield server.url


@contextmanager
def serving(
    program: Program, names: list[str], folder: Path, supervisor: Supervisor, **variables: str
) -> Iterator[None]:
    """Run workers for the program's file until the block ends, each with one step at a time."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("UMBEL_")}
    with ExitStack() as stack:
        logs = []
        for name in names:
            logs.append(log := folder / f"{name}.log")
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            stack.callback(os.close, descriptor)
            process = supervisor.spawn(
                [UMBEL, "worker", f"{program.name}.py", "--name", name, "--concurrency", "1"],
                cwd=folder,
                env=clean | QUICK | variables,
                output=descriptor,
                grace_seconds=2,
            )
            stack.callback(end, process, supervisor)
        eventually(lambda: all(" ready." in log.read_text() for log in logs), "all workers are ready")
        yield


def end(process: subprocess.Popen[bytes], supervisor: Supervisor) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    supervisor.forget(process.pid)


@EVERY_PROGRAM
def test_it_runs_on_two_workers_that_both_take_part(
    program: Program, redis_url: str, supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / f"{program.name}.py").write_text(program.ported)
    deployed = {"UMBEL_REDIS_URL": redis_url, "UMBEL_KEY_PREFIX": f"p{secrets.token_hex(4)}"}
    runtime = Runtime(Settings(redis_url=redis_url, key_prefix=deployed["UMBEL_KEY_PREFIX"]))
    store = store_of(runtime)
    try:
        with serving(program, ["one", "two"], tmp_path, supervisor, **deployed):
            found: list[Execution] = []
            for _ in range(5):  # in a program of few steps, it is random which worker claims a dispatch first
                assert execute([sys.executable], program, tmp_path, **deployed) == program.printed
                runs = [run.run_id for run in store.runs()]
                found = [each for run_id in runs for each in executions(store.journal(run_id))]
                if len({each.worker for each in found}) == 2:
                    break
        assert {each.worker.partition("@")[0] for each in found} == {"one", "two"}
        assert {each.outcome for each in found} <= {"done", "retrying", "waiting"}
    finally:
        runtime.close()


def test_the_branches_of_one_run_are_spread_over_two_workers(
    redis_url: str, supervisor: Supervisor, tmp_path: Path
) -> None:
    program = PRICE_SURVEY
    (tmp_path / f"{program.name}.py").write_text(program.ported)
    deployed = {"UMBEL_REDIS_URL": redis_url, "UMBEL_KEY_PREFIX": f"p{secrets.token_hex(4)}"}
    runtime = Runtime(Settings(redis_url=redis_url, key_prefix=deployed["UMBEL_KEY_PREFIX"]))
    store = store_of(runtime)
    try:
        with serving(program, ["one", "two"], tmp_path, supervisor, **deployed):
            assert execute([sys.executable], program, tmp_path, **deployed) == program.printed
        for run in store.runs():
            queries = [each for each in executions(store.journal(run.run_id)) if each.step == "query"]
            assert len(queries) == 12
            assert {each.worker.partition("@")[0] for each in queries} == {"one", "two"}
            # Its `num_workers` is 4, over all workers together.
            edges = [(each.started_at, 1) for each in queries] + [(each.ended_at or 0, -1) for each in queries]
            at_once = most = 0
            for _, change in sorted(edges):
                at_once += change
                most = max(most, at_once)
            assert most <= 4
    finally:
        runtime.close()
