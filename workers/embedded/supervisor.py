"""The owner's side of the supervisor: an owner that dies, even by SIGKILL, leaves no process and no temporary folder.

Each owner has one small supervisor process, in a session of its own so that Ctrl-C does not reach it. What it does
once the owner has ended is in `supervisor_process`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...orchestration.model.errors import UmbelError

#: Default number of seconds between SIGTERM and SIGKILL.
GRACE_SECONDS = 10.0
#: Seconds within which the supervisor's process must report that it is ready; it needs a few hundredths of a second.
READY_SECONDS = 30.0

_PROGRAM = Path(__file__).with_name("supervisor_process.py")
#: Waits for a line on standard input before it becomes the command; end of input means that the owner is dead.
_GATE = 'read -r go && exec "$@" </dev/null'


class SupervisorUnavailable(UmbelError):
    """The supervisor's process does not start; without it, a killed owner would leave servers and workers behind."""


class Supervisor:
    """Ends the given processes and removes the given folders when this process ends, however it ends.

    Its process is started when there is something to end. If it is killed, the next change starts another one, which
    receives the whole list. Safe to use from several threads. A forked child is not the owner: there, registering and
    closing do nothing.

    Promise: what was registered is ended and removed once the owner is dead, even if the owner was killed in the very
    next instruction. Only if owner and supervisor are both killed, or the machine stops, may something be left.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._guarded: dict[int, dict[str, Any]] = {}
        self._folders: set[str] = set()

    @property
    def pid(self) -> int | None:
        """Id of the supervisor's process; None while there is none."""
        return None if self._process is None else self._process.pid

    def guard(self, pid: int, *, grace_seconds: float = GRACE_SECONDS, users_lock: Path | None = None) -> None:
        """End this process when the owner has ended: by SIGTERM, and SIGKILL to its process group after a grace period.

        Call `forget` once the process has ended, before its id can belong to another one.

        Args:
            pid: A process that leads a process group; it need not be a child of the owner.
            grace_seconds: Time between SIGTERM and SIGKILL.
            users_lock: For a shared process, such as a Redis server: it is ended after all others, and only if no
                other user of it holds a `flock` on this file, which need not exist.

        Raises:
            SupervisorUnavailable: The supervisor's process does not start.
        """
        self._guarded[pid] = {
            "pid": pid,
            "grace_seconds": grace_seconds,
            "users_lock": None if users_lock is None else str(users_lock),
        }
        self._send()

    def forget(self, pid: int) -> None:
        """Stop guarding this process: it has ended, or is to keep running."""
        if self._guarded.pop(pid, None) is not None:
            self._send()

    def add_folder(self, folder: Path) -> None:
        """Remove this folder once all guarded processes have ended. It need not exist yet.

        Raises:
            SupervisorUnavailable: The supervisor's process does not start.
        """
        self._folders.add(str(folder))
        self._send()

    def forget_folder(self, folder: Path) -> None:
        """Do not remove this folder after all."""
        if str(folder) in self._folders:
            self._folders.discard(str(folder))
            self._send()

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        pass_fds: Sequence[int] = (),
        grace_seconds: float = GRACE_SECONDS,
        users_lock: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that is guarded from its first instruction on.

        A shell is started and guarded, and only then becomes the command, so a killed owner never leaves it behind. A
        command that cannot be executed ends with code 126 or 127 and says why on its output. The process leads a
        session of its own: Ctrl-C reaches only the owner, which decides what to do.

        Args:
            command: Program and arguments.
            cwd: Its working folder.
            env: Its whole environment; None means the owner's.
            output: Descriptor for both its standard output and error; None means the owner's.
            pass_fds: Descriptors it inherits under the same number.
            grace_seconds: As in `guard`.
            users_lock: As in `guard`.

        Returns:
            The process. Its pid is the command's own.

        Raises:
            SupervisorUnavailable: The supervisor's process does not start; the command was not started either.
        """
        reading, gate = os.pipe()
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "sh", *(str(word) for word in command)],
                cwd=cwd,
                env=env,
                stdin=reading,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
            )
            try:
                self.guard(process.pid, grace_seconds=grace_seconds, users_lock=users_lock)
                os.write(gate, b"go\n")
            except BaseException:
                process.kill()
                process.wait()
                raise
        finally:
            os.close(reading)
            os.close(gate)
        return process

    def stop(self, *processes: subprocess.Popen[bytes], within_seconds: float) -> None:
        """End processes that `spawn` started: SIGTERM to all, then SIGKILL to the group of each that takes too long."""
        for process in processes:
            process.terminate()
        self.outwait(*processes, within_seconds=within_seconds)

    def outwait(self, *processes: subprocess.Popen[bytes], within_seconds: float) -> None:
        """The same for processes that have received SIGTERM already: none is sent."""
        for process in processes:
            try:
                process.wait(within_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self.forget(process.pid)

    def close(self) -> None:
        """End the processes that are still guarded, remove the folders and end the supervisor; return when done.

        The supervisor does the same as when the owner dies. The owner itself must wait for processes that are its
        children.
        """
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._process is not None:
                self._send(is_closed=True)
                self._abandon(self._process)
                self._process = None
                self._guarded.clear()
                self._folders.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, *, is_closed: bool = False) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            charge = {"processes": list(self._guarded.values()), "folders": list(self._folders), "is_closed": is_closed}
            line = json.dumps(charge).encode() + b"\n"
            if self._process is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._pipe, line)
                    return
                self._abandon(self._process)  # it was killed
                self._process = None
            self._process, self._pipe = _start(self._owner)
            os.write(self._pipe, line)

    def _abandon(self, process: subprocess.Popen[bytes]) -> None:
        os.close(self._pipe)
        process.wait()


def _start(owner: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [sys.executable, "-I", "-S", str(_PROGRAM), str(owner)]
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        os.close(writing)
        raise SupervisorUnavailable(_not_started(command, str(error))) from error
    finally:
        os.close(reading)
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    reported = process.stdout.read(6) if poll.poll(READY_SECONDS * 1000) else b""
    process.stdout.close()
    if reported != b"ready\n":
        os.close(writing)
        process.kill()
        process.wait()
        raise SupervisorUnavailable(_not_started(command, f"it answered {reported!r}"))
    return process, writing


def _not_started(command: Sequence[str], reason: str) -> str:
    return (
        f"The supervisor, which ends servers and workers when this process is killed, did not start: {reason}. "
        f"The command was {' '.join(command)!r}; its first word must be a Python interpreter. Start umbel from a "
        f"plain Python interpreter, or run your own Redis and workers and set UMBEL_REDIS_URL."
    )
