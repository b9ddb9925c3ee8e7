"""The owner's side of the watchdog: whoever dies, even by SIGKILL, leaves no process and no temporary folder.

One small process per owner, in a session of its own so that Ctrl-C does not reach it. What it does when the owner
is gone stands in `watchdog_process`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...orchestration.model.errors import UmbelError

#: Seconds a guarded process has between SIGTERM and SIGKILL unless told otherwise.
GRACE_SECONDS = 10.0
#: Seconds until the watchdog's process must have said that it is there; it needs a few hundredths.
READY_SECONDS = 30.0

_PROGRAM = Path(__file__).with_name("watchdog_process.py")
#: Waits for a word on standard input before it becomes the command; end of input means that the owner is dead.
_GATE = 'read -r go && exec "$@" </dev/null'


class WatchdogUnavailable(UmbelError):
    """The watchdog's process does not start; without it, a killed owner would leave servers and workers behind."""


class Watchdog:
    """Ends the given processes and removes the given folders when this process ends, however it ends.

    The watchdog's process is started with the first order; if somebody kills it, a new one is started with the next
    order and told everything. Safe to use from several threads. In a forked child all orders do nothing: the child
    is not the owner.

    Promise: what was handed over is cleared up once the owner is dead, also if the owner was killed in the very next
    instruction. Only if owner and watchdog are killed both, or the machine stops, something may stay.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._guarded: dict[int, dict[str, Any]] = {}
        self._folders: set[str] = set()

    @property
    def pid(self) -> int | None:
        """Process id of the watchdog's process; None while there is nothing to watch."""
        return None if self._process is None else self._process.pid

    def guard(
        self,
        pid: int,
        *,
        grace_seconds: float = GRACE_SECONDS,
        leads_group: bool = False,
        after_others: bool = False,
        unless_locked: Path | None = None,
    ) -> None:
        """End this process when the owner has ended: SIGTERM, and SIGKILL after a grace.

        Call `forget` once the process has ended, before its number can belong to another.

        Args:
            pid: The process; it need not be a child of the owner.
            grace_seconds: Time between SIGTERM and SIGKILL.
            leads_group: It leads a process group; what is left of the group is killed with it.
            after_others: It is ended last, as those others need it to end well. A Redis server is.
            unless_locked: A file on which every user of the process holds a `flock`. While anybody does, the
                process is left alone. Only for processes that are ended last.

        Raises:
            WatchdogUnavailable: The watchdog's process does not start.
            ValueError: `unless_locked` without `after_others`.
        """
        if unless_locked is not None and not after_others:
            raise ValueError(f"Process {pid} has unless_locked={str(unless_locked)!r}: it needs after_others=True.")
        order = {
            "order": "guard",
            "pid": pid,
            "grace_seconds": grace_seconds,
            "leads_group": leads_group,
            "after_others": after_others,
            "unless_locked": None if unless_locked is None else str(unless_locked),
        }
        if self._is_owner():
            with self._turn:
                self._guarded[pid] = order
                self._send(order)

    def forget(self, pid: int) -> None:
        """Guard this process no longer: it has ended, or is to live on."""
        if self._is_owner():
            with self._turn:
                if self._guarded.pop(pid, None) is not None:
                    self._send({"order": "forget", "pid": pid})

    def add_folder(self, folder: Path) -> None:
        """Remove this folder, once all guarded processes have ended. It need not exist yet.

        Raises:
            WatchdogUnavailable: The watchdog's process does not start.
        """
        if self._is_owner():
            with self._turn:
                self._folders.add(str(folder))
                self._send({"order": "add_folder", "folder": str(folder)})

    def forget_folder(self, folder: Path) -> None:
        """Leave this folder alone."""
        if self._is_owner():
            with self._turn:
                if str(folder) in self._folders:
                    self._folders.discard(str(folder))
                    self._send({"order": "forget_folder", "folder": str(folder)})

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        pass_fds: Sequence[int] = (),
        grace_seconds: float = GRACE_SECONDS,
        after_others: bool = False,
        unless_locked: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that is guarded from its first instruction on.

        A shell is started, put under guard, and only then told to become the command, so there is no moment in which
        a killed owner leaves it behind. A command that cannot be executed ends with code 126 or 127 and says
        why on its output. The process leads a session of its own: Ctrl-C reaches the owner, who decides.

        Args:
            command: Program and arguments.
            cwd: Its working folder.
            env: Its whole environment; None is the owner's.
            output: Descriptor for both its standard output and error; None is the owner's.
            pass_fds: Descriptors it inherits under the same number.
            grace_seconds: As in `guard`.
            after_others: As in `guard`.
            unless_locked: As in `guard`.

        Returns:
            The process. Its pid is the command's own.

        Raises:
            WatchdogUnavailable: The watchdog's process does not start; the command was not started either.
        """
        process = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "sh", *(str(word) for word in command)],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            pass_fds=pass_fds,
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None
        try:
            self.guard(
                process.pid,
                grace_seconds=grace_seconds,
                leads_group=True,
                after_others=after_others,
                unless_locked=unless_locked,
            )
            process.stdin.write(b"go\n")
            process.stdin.close()
        except BrokenPipeError:  # somebody killed it at the gate; the caller sees that it has ended
            process.stdin.close()
            process.wait()
        except BaseException:
            process.stdin.close()
            process.kill()
            process.wait()
            raise
        return process

    def close(self) -> None:
        """End what is still guarded, remove the folders, and dismiss the watchdog; returns when all is done.

        It is the very way it goes when the owner dies. The owner's own children among the processes are left for it
        to wait on.
        """
        if not self._is_owner():
            return
        with self._turn:
            if self._process is None:
                return
            self._send({"order": "close"})
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None
            self._guarded.clear()
            self._folders.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_owner(self) -> bool:
        return os.getpid() == self._owner

    def _send(self, order: Mapping[str, Any]) -> None:
        if self._process is not None:
            try:
                _write(self._process, order)
                return
            except BrokenPipeError:  # killed by somebody: a new one must know everything
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait()
        self._process = _start(self._owner)
        for known in self._guarded.values():
            _write(self._process, known)
        for folder in self._folders:
            _write(self._process, {"order": "add_folder", "folder": folder})
        if order["order"] == "close":
            _write(self._process, order)


def _write(process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")


def _start(owner: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", str(_PROGRAM), str(owner)]
    try:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise WatchdogUnavailable(_not_started(command, str(error))) from error
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    said = process.stdout.read(6) if poll.poll(READY_SECONDS * 1000) else b""
    process.stdout.close()
    if said != b"ready\n":
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
        process.wait()
        raise WatchdogUnavailable(_not_started(command, f"it said {said!r}"))
    return process


def _not_started(command: Sequence[str], reason: str) -> str:
    return (
        f"The watchdog, which ends servers and workers when this process is killed, did not start: {reason}. "
        f"The command was {' '.join(command)!r}; its first word must be a Python interpreter. Start umbel from a "
        f"plain Python interpreter, or run your own Redis and workers and set UMBEL_REDIS_URL."
    )
