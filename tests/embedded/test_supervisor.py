"""The supervisor: the processes it guards end with their owner, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.eventually import eventually
from support.processes.owner import is_gone
from umbel.workers.embedded.supervisor import Supervisor


def test_nothing_is_started_while_there_is_nothing_to_watch() -> None:
    with Supervisor() as supervisor:
        assert supervisor.pid is None


def test_closing_ends_what_is_still_guarded_and_removes_the_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    with Supervisor() as supervisor:
        supervisor.add_folder(folder)
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").touch()
        (folder / "link").symlink_to(outside)
        sleeper = supervisor.spawn(["sleep", "600"])
        supervisor_pid = supervisor.pid
        assert supervisor_pid is not None

    assert sleeper.wait() == -signal.SIGTERM
    assert is_gone(supervisor_pid)
    assert not folder.exists()
    assert (outside / "kept").exists()


def test_what_is_forgotten_is_left_alone(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.add_folder(tmp_path / "folder")
        (tmp_path / "folder").mkdir()
        sleeper = supervisor.spawn(["sleep", "600"])
        supervisor.forget_folder(tmp_path / "folder")
        supervisor.forget(sleeper.pid)

    try:
        assert sleeper.poll() is None
        assert (tmp_path / "folder").exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_an_owner_that_ends_without_closing_leaves_nothing() -> None:
    code = """
import os
from umbel.workers.embedded.supervisor import Supervisor
supervisor = Supervisor()
print(supervisor.spawn(["sleep", "600"]).pid, supervisor.pid, flush=True)
os._exit(0)
"""
    pids = _run(code)

    eventually(lambda: all(map(is_gone, pids)), "both have ended")


def test_a_child_forked_by_the_owner_does_not_keep_the_supervisor_waiting() -> None:
    code = """
import os, signal
from umbel.workers.embedded.supervisor import Supervisor
supervisor = Supervisor()
sleeper = supervisor.spawn(["sleep", "600"]).pid
child = os.fork()
if child == 0:
    supervisor.close()  # it is not the owner
    os.close(1)
    signal.pause()
print(child, supervisor.pid, sleeper, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    child, *pids = _run(code, code_of_end=-signal.SIGKILL)

    try:
        eventually(lambda: all(map(is_gone, pids)), "supervisor and sleeper have ended")
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_meant_for_the_owner_do_not_end_the_supervisor_first(number: signal.Signals) -> None:
    with Supervisor() as supervisor:
        sleeper = supervisor.spawn(["sleep", "600"])
        assert supervisor.pid is not None
        assert os.getsid(supervisor.pid) == supervisor.pid
        assert os.getsid(sleeper.pid) == sleeper.pid

        os.kill(supervisor.pid, number)

    assert sleeper.wait() == -signal.SIGTERM


def test_a_killed_supervisor_is_replaced_by_one_that_is_given_everything(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.add_folder(tmp_path / "folder")
        (tmp_path / "folder").mkdir()
        first = supervisor.spawn(["sleep", "600"])
        killed = supervisor.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: is_gone(killed), "the supervisor is dead")

        second = supervisor.spawn(["sleep", "600"])
        assert supervisor.pid != killed

    assert [first.wait(), second.wait()] == [-signal.SIGTERM, -signal.SIGTERM]
    assert not (tmp_path / "folder").exists()


def test_a_process_that_ended_long_ago_may_be_guarded() -> None:
    with Supervisor() as supervisor:
        ended = supervisor.spawn(["true"])
        assert ended.wait() == 0
        supervisor.guard(ended.pid)


def test_a_command_that_cannot_be_executed_says_so_on_its_output(tmp_path: Path) -> None:
    with Supervisor() as supervisor, (tmp_path / "output").open("wb") as output:
        process = supervisor.spawn([tmp_path / "missing"], output=output.fileno())

        assert process.wait() == 127
    assert "missing" in (tmp_path / "output").read_text()


def test_a_spawned_command_has_the_arguments_folder_and_environment_it_was_given(tmp_path: Path) -> None:
    with Supervisor() as supervisor, (tmp_path / "output").open("wb") as output:
        process = supervisor.spawn(
            ["/bin/sh", "-c", 'printf "%s|" "$PWD" "$WORD" "$@"; cat', "sh", "a b", "$HOME", ""],
            cwd=tmp_path,
            env={"WORD": "two words"},
            output=output.fileno(),
        )
        assert process.wait() == 0
    assert (tmp_path / "output").read_text() == f"{tmp_path}|two words|a b|$HOME||"


def _run(code: str, code_of_end: int = 0) -> list[int]:
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == code_of_end
    return list(map(int, ended.stdout.split()))
