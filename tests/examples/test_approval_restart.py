"""The approval example waits while there is no process at all: all are killed before the answer arrives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import approval

from support.eventually import eventually
from umbel.workers.embedded.folder import ServerFolder, is_locked, project_state

EXAMPLE = Path(approval.__file__)
UMBEL = str(Path(sys.executable).with_name("umbel"))
SECONDS = 40


def descendants(pid: int) -> set[int]:
    """Return all live descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found, level = set(), [pid]
    while level:
        found |= (below := {child for each in level for child in children.get(each, ())})
        level = list(below)
    return found


class Terminal:
    """A terminal for umbel commands; the runs are kept in its own state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = ServerFolder(folder / "state" / project_state(Path.cwd()))
        self.environment = os.environ | {"UMBEL_STATE_DIR": str(folder / "state"), "PYTHONUNBUFFERED": "1"}

    def __call__(self, *arguments: str) -> str:
        """Run a command to a successful end; return what it printed."""
        command = [UMBEL, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def background(self, name: str, *arguments: str) -> Iterator[Background]:
        """Run a command in its own terminal; it and all processes it has started are killed at the end."""
        log = self.folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [UMBEL, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        background = Background(process, log)
        try:
            yield background
        finally:
            background.kill_everything()
            self._kill_server()

    def _kill_server(self) -> None:
        """Kill the Redis if another command has started it: it is then nobody's child and no longer supervised."""
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.folder / "state" / project_state(Path.cwd()) / "server.pid").read_text()), signal.SIGKILL)


class Background:
    """A command in the background, and its output."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    def says(self, pattern: str) -> None:
        """Wait until its output matches."""
        eventually(lambda: re.search(pattern, self._log.read_text()), f"it says {pattern!r}: {self._log.read_text()}")

    def kill_everything(self) -> set[int]:
        """SIGKILL the command, its Redis, its supervisor, its worker and the pool's processes."""
        if self.process.poll() is not None:
            return set()
        everything = {self.process.pid, *descendants(self.process.pid)}
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none reacts to the end of another
            for pid in everything:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.process.wait()
        return everything


def test_the_answer_finds_the_run_after_every_process_was_killed(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    with terminal.background("run", "run", str(EXAMPLE), "amount=1200", "--run-id", "trip") as run:
        run.says("Answer with: umbel send trip Decision ")
        assert is_locked(terminal.state.server_lock)
        killed = run.kill_everything()
    assert len(killed) >= 4  # the command, Redis, the supervisor, the worker with its processes
    eventually(lambda: not is_locked(terminal.state.server_lock), "Redis is gone")
    assert "May 1200.00 euros be spent?" in terminal("events", "trip")

    terminal("send", "trip", "Decision", "approved=true", "by=Ada")
    assert "approved" not in terminal("events", "trip")  # no process has continued it yet

    with terminal.background("dev", "dev", str(EXAMPLE)) as dev:
        assert "approved by Ada" in terminal("events", "trip", "--follow")
        dev.kill_everything()
    printed = terminal("events", "trip")
    assert printed.count("May 1200.00 euros be spent?") == 1
    assert printed.count("approved by Ada") == 1


def test_the_commands_of_the_example_are_those_that_it_shows(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    assert approval.__doc__ is not None
    shown = [
        line[2:].partition("#")[0].split() for line in approval.__doc__.splitlines() if line.startswith("$ umbel ")
    ]
    dev, start, events, send, dev_again, follow, _ = (
        [str(EXAMPLE) if word == "examples/approval.py" else word for word in words[1:]] for words in shown
    )

    with terminal.background("dev", *dev) as serving:
        serving.says(r" ready\.")
        terminal(*start)
        eventually(lambda: "May 1200.00 euros be spent?" in terminal(*events), "the question is put")
        serving.kill_everything()
    terminal(*send)
    with terminal.background("dev again", *dev_again):
        assert "approved by Ada" in terminal(*follow)
