"""The supervisor's own process: it outlives its owner just long enough to end what the owner started.

`supervisor.Supervisor` starts it by its path, isolated (`python -I -S`), with the owner's process id as its argument.
Each line of standard input is one JSON object that lists everything to end; the last complete line counts.
Only the standard library is imported: this must still work when the project's own environment is broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

#: Seconds to wait for a process after SIGKILL; only a process stuck inside the kernel takes longer.
KILL_SECONDS = 5.0
#: Seconds between checks of the owner if the kernel has no pidfds.
OWNER_LOOK_SECONDS = 0.25


def open_pidfd(pid: int) -> int | None:
    """A descriptor of exactly this process, readable once it has ended; None if the kernel has no pidfds.

    Raises:
        ProcessLookupError: No process has this id.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


class Guarded:
    """One process to end. Its pidfd keeps it from being confused with a later process of the same id."""

    def __init__(self, *, pid: int, grace_seconds: float, users_lock: str | None) -> None:
        self.pid, self.grace_seconds, self.users_lock = pid, grace_seconds, users_lock
        self._pidfd: int | None = None
        self._has_ended = False
        try:
            self._pidfd = open_pidfd(pid)
        except ProcessLookupError:
            self._has_ended = True

    def has_ended(self) -> bool:
        """Whether the process has ended; a zombie counts as ended only if the kernel has pidfds."""
        if not self._has_ended:
            if self._pidfd is not None:
                self._has_ended = bool(select.select([self._pidfd], [], [], 0)[0])
            else:
                try:
                    os.kill(self.pid, 0)
                except ProcessLookupError:
                    self._has_ended = True
        return self._has_ended

    def terminate(self) -> None:
        """Send SIGTERM to the process alone, which must itself end what it started."""
        with contextlib.suppress(OSError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            else:
                os.kill(self.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """Send SIGKILL to what is left of the group that it leads."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def release(self) -> None:
        """Close the pidfd; the process keeps running."""
        if self._pidfd is not None:
            os.close(self._pidfd)


def read_lines(owner: int) -> Iterator[bytes]:
    """What the owner writes, line by line, until it is dead and all that it wrote has been read.

    The end of the pipe alone does not tell whether the owner is dead: a child that the owner forked may hold the other
    end for longer, and the kernel closes the files of a dying process one by one, possibly those it has locked last.
    PR_SET_PDEATHSIG does not tell either: it is tied to the *thread* that started this process.
    """
    unread = b""
    waited = [0]
    look_seconds: float | None = OWNER_LOOK_SECONDS
    with contextlib.suppress(ProcessLookupError):
        pidfd = open_pidfd(owner)
        if pidfd is not None:
            waited.append(pidfd)
            look_seconds = None
    if os.getppid() != owner:  # the owner died before its pidfd was opened, which may be of another process
        look_seconds = 0
    while True:
        ready = select.select(waited, [], [], look_seconds)[0]
        if 0 in ready:
            chunk = os.read(0, 65536)
            if not chunk:
                waited.remove(0)
            *lines, unread = (unread + chunk).split(b"\n")  # a line cut short by the owner's death is dropped
            yield from lines
        elif ready or os.getppid() != owner:
            return


def end(processes: list[Guarded]) -> None:
    """Send SIGTERM to all of them, and SIGKILL to each that takes longer than its grace period."""
    living = [process for process in processes if not process.has_ended()]
    started_at = time.monotonic()
    for process in living:
        process.terminate()
    while living:
        waited_seconds = time.monotonic() - started_at
        for process in list(living):
            if process.has_ended() or waited_seconds > process.grace_seconds + KILL_SECONDS:
                living.remove(process)
            if process not in living or waited_seconds > process.grace_seconds:
                process.kill_group()
        time.sleep(0.01)


def end_unless_used(process: Guarded, users_lock: str) -> None:
    """End a process that several owners share, unless another owner holds a lock on its users file."""
    try:
        with open(users_lock, "rb+") as users:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end([process])  # still locked: a new user waits and does not attach to a server that is ending
    except BlockingIOError:
        pass
    except FileNotFoundError:
        end([process])  # a temporary or deleted folder: nobody else can find this process


def main() -> None:
    """Wait for the owner's end, then end the processes that it left, and remove the folders."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to a whole service must not end the supervisor first
    os.write(1, b"ready\n")
    guarded: dict[int, Guarded] = {}
    folders: list[str] = []
    for line in read_lines(int(sys.argv[1])):
        charge: dict[str, Any] = json.loads(line)
        processes = {process["pid"]: process for process in charge["processes"]}
        for pid in guarded.keys() - processes.keys():
            guarded.pop(pid).release()
        for pid in processes.keys() - guarded.keys():
            guarded[pid] = Guarded(**processes[pid])
        folders = charge["folders"]
        if charge["is_closed"]:
            break
    end([process for process in guarded.values() if process.users_lock is None])
    for process in guarded.values():
        if process.users_lock is not None:
            end_unless_used(process, process.users_lock)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
