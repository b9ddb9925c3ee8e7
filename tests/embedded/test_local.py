"""`umbel.local()`: a whole deployment for the duration of a block, with worker processes or in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel
from support import TESTS
from support.eventually import eventually
from support.flows import everyday as flows
from support.flows import shop_after
from support.processes.driving import QUICK, descendants, is_alive
from umbel import ConfigurationError, StartEvent, StopEvent, Workflow, step


@pytest.fixture(autouse=True)
def folder_of_effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set the folder that worker processes of `local()` inherit in their environment."""
    monkeypatch.setenv(flows.FOLDER, str(tmp_path))
    return tmp_path


def test_workflows_of_modules_run_in_worker_processes_that_end_afterwards() -> None:
    before = descendants(os.getpid())
    with umbel.local(concurrency=1, settings=umbel.Settings(**QUICK)):
        assert flows.Fan().start(n=5).result(timeout=40) == [5, 30]
        # Each module gets its own worker process, and neither may execute the other's steps.
        assert [shop_after.Refund().start().result(timeout=40) for _ in range(4)] == ["paid back"] * 4
        assert [flows.Chain().start(n=n).result(timeout=40) for n in range(4)] == [0, 1, 4, 9]
    eventually(lambda: descendants(os.getpid()) <= before, "no process is left")


def test_a_class_that_no_other_process_can_load_is_refused_with_the_way_out() -> None:
    class Local(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    expected = (
        r"A worker process cannot load workflow .*<locals>\.Local: it is defined inside a function or in a notebook\. "
        r"Define it at the top level of a module, or use umbel\.local\(in_process=True\)\."
    )
    with umbel.local(), pytest.raises(ConfigurationError, match=expected):
        Local().start()


def test_killing_the_owner_leaves_no_process_and_no_folder() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "support.programs.local_owner"],
        cwd=TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["result"] == 25
        below = descendants(process.pid)
        folders = {
            Path(f"/proc/{pid}/cwd").resolve()
            for pid in below
            if Path(f"/proc/{pid}/cwd").resolve().name[:6] == "umbel-"
        }
        assert len(below) >= 3  # Redis, the supervisor, a worker
        assert len(folders) == 1
    finally:
        process.kill()
        process.communicate()
    eventually(lambda: not any(is_alive(pid) for pid in below), "no process is left")
    eventually(lambda: not any(folder.exists() for folder in folders), "no folder is left")


def test_in_process_serves_every_loop_and_none_and_can_be_opened_again() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "support.programs.local_in_process"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, registered = json.loads(done.stdout)
    assert first == second
    assert first == {
        "first loop": True,
        "second loop": True,
        "closures": [1, "how many?"],
        "without a loop": 2,
        "many at once": ["Threa"] * 5,
        "a queue of its own": "rendered",
        "a second block inside": (
            "Only one umbel.local(in_process=True) block may be open in a process. Use the open one, or "
            "umbel.local() with worker processes."
        ),
        "after the refusal": True,
        "after the block": "not configured",
    }
    assert registered == "rendered"
