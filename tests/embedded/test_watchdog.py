"""The watchdog: what it guards ends with its owner, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes.owner import eventually, is_gone
from umbel.workers.embedded.watchdog import Watchdog


def test_nothing_is_started_while_there_is_nothing_to_watch() -> None:
    with Watchdog() as watchdog:
        assert watchdog.pid is None


def test_closing_ends_what_is_still_guarded_and_removes_the_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    with Watchdog() as watchdog:
        watchdog.add_folder(folder)
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").touch()
        (folder / "link").symlink_to(outside)
        sleeper = watchdog.spawn(["sleep", "600"])
        watchdog_pid = watchdog.pid
        assert watchdog_pid is not None

    assert sleeper.wait() == -signal.SIGTERM
    assert is_gone(watchdog_pid)
    assert not folder.exists()
    assert (outside / "kept").exists()


def test_what_is_forgotten_is_left_alone(tmp_path: Path) -> None:
    with Watchdog() as watchdog:
        watchdog.add_folder(tmp_path / "folder")
        (tmp_path / "folder").mkdir()
        sleeper = watchdog.spawn(["sleep", "600"])
        watchdog.forget_folder(tmp_path / "folder")
        watchdog.forget(sleeper.pid)

    try:
        assert sleeper.poll() is None
        assert (tmp_path / "folder").exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_an_owner_that_ends_without_closing_leaves_nothing() -> None:
    code = """
import os
from umbel.workers.embedded.watchdog import Watchdog
watchdog = Watchdog()
print(watchdog.spawn(["sleep", "600"]).pid, watchdog.pid, flush=True)
os._exit(0)
"""
    pids = _run(code)

    eventually(lambda: all(map(is_gone, pids)), "both have ended")


def test_a_child_forked_by_the_owner_does_not_keep_the_watchdog_waiting() -> None:
    code = """
import os, signal
from umbel.workers.embedded.watchdog import Watchdog
watchdog = Watchdog()
sleeper = watchdog.spawn(["sleep", "600"]).pid
child = os.fork()
if child == 0:
    watchdog.close()  # it is not the owner
    os.close(1)
    signal.pause()
print(child, watchdog.pid, sleeper, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    child, *pids = _run(code, code_of_end=-signal.SIGKILL)

    try:
        eventually(lambda: all(map(is_gone, pids)), "watchdog and sleeper have ended")
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_meant_for_the_owner_do_not_end_the_watchdog_first(number: signal.Signals) -> None:
    with Watchdog() as watchdog:
        sleeper = watchdog.spawn(["sleep", "600"])
        assert watchdog.pid is not None
        assert os.getsid(watchdog.pid) == watchdog.pid
        assert os.getsid(sleeper.pid) == sleeper.pid

        os.kill(watchdog.pid, number)

    assert sleeper.wait() == -signal.SIGTERM


def test_a_killed_watchdog_is_replaced_and_told_everything(tmp_path: Path) -> None:
    with Watchdog() as watchdog:
        watchdog.add_folder(tmp_path / "folder")
        (tmp_path / "folder").mkdir()
        first = watchdog.spawn(["sleep", "600"])
        killed = watchdog.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: is_gone(killed), "the watchdog is dead")

        second = watchdog.spawn(["sleep", "600"])
        assert watchdog.pid != killed

    assert [first.wait(), second.wait()] == [-signal.SIGTERM, -signal.SIGTERM]
    assert not (tmp_path / "folder").exists()


def test_a_process_that_has_ended_long_ago_is_no_trouble() -> None:
    with Watchdog() as watchdog:
        ended = watchdog.spawn(["true"])
        assert ended.wait() == 0
        watchdog.guard(ended.pid)


def test_a_command_that_cannot_be_executed_says_so_on_its_output(tmp_path: Path) -> None:
    with Watchdog() as watchdog, (tmp_path / "output").open("wb") as output:
        process = watchdog.spawn([tmp_path / "missing"], output=output.fileno())

        assert process.wait() == 127
    assert "missing" in (tmp_path / "output").read_text()


def test_a_spawned_command_has_the_arguments_folder_and_environment_it_was_given(tmp_path: Path) -> None:
    with Watchdog() as watchdog, (tmp_path / "output").open("wb") as output:
        process = watchdog.spawn(
            ["/bin/sh", "-c", 'printf "%s|" "$PWD" "$WORD" "$@"; cat', "sh", "a b", "$HOME", ""],
            cwd=tmp_path,
            env={"WORD": "two words"},
            output=output.fileno(),
        )
        assert process.wait() == 0
    assert (tmp_path / "output").read_text() == f"{tmp_path}|two words|a b|$HOME||"


def test_a_lock_protects_only_what_is_ended_last(tmp_path: Path) -> None:
    with Watchdog() as watchdog, pytest.raises(ValueError, match="after_others"):
        watchdog.guard(os.getpid(), unless_locked=tmp_path / "users.lock")


def _run(code: str, code_of_end: int = 0) -> list[int]:
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == code_of_end
    return list(map(int, ended.stdout.split()))
