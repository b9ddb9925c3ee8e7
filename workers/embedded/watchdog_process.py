"""The watchdog's own process: outlives its owner just long enough to clear up behind it.

Started by `watchdog.Watchdog` by its path, isolated (`python -I -S`), with the owner's process id as its argument.
Orders arrive as JSON lines on standard input. Nothing but the standard library is imported here, and little of
that: this process sits beside every local run, and must still work when the project's own environment is broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import Any

#: Seconds to wait for a process after SIGKILL; only one stuck inside the kernel takes longer.
KILL_SECONDS = 5.0
#: Seconds between two looks at the owner where the kernel offers no pidfd.
OWNER_LOOK_SECONDS = 0.25


def open_pidfd(pid: int) -> int | None:
    """A descriptor that stands for this very process, or None where the kernel has no such thing.

    Raises:
        ProcessLookupError: There is no such process.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


class Guarded:
    """One process to end, and how. Holding a pidfd, it cannot mistake a later process of the same number for it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.pid: int = order["pid"]
        self.grace_seconds: float = order["grace_seconds"]
        self.leads_group: bool = order["leads_group"]
        self.after_others: bool = order["after_others"]
        self.unless_locked: str | None = order["unless_locked"]
        self._pidfd: int | None = None
        self._is_gone = False
        try:
            self._pidfd = open_pidfd(self.pid)
        except ProcessLookupError:
            self._is_gone = True

    def has_ended(self) -> bool:
        """Whether the process has ended; a zombie has, where the kernel has pidfds."""
        if not self._is_gone:
            if self._pidfd is not None:
                poll = select.poll()
                poll.register(self._pidfd, select.POLLIN)
                self._is_gone = bool(poll.poll(0))
            else:
                try:
                    os.kill(self.pid, 0)
                except ProcessLookupError:
                    self._is_gone = True
        return self._is_gone

    def send(self, number: signal.Signals) -> None:
        """Signal the process, unless it has ended."""
        if self.has_ended():
            return
        with contextlib.suppress(OSError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL whatever is left of the group it leads."""
        if self.leads_group:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def release(self) -> None:
        """Let go of it, without ending it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class Orders:
    """What the owner has asked for so far."""

    def __init__(self) -> None:
        self.guarded: dict[int, Guarded] = {}
        self.folders: set[str] = set()
        self.is_closed = False
        self._unread = b""

    def feed(self, chunk: bytes) -> None:
        """Take up what came down the pipe. An order cut short by the owner's death is dropped."""
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        match order["order"]:
            case "guard":
                self._release(order["pid"])
                self.guarded[order["pid"]] = Guarded(order)
            case "forget":
                self._release(order["pid"])
            case "add_folder":
                self.folders.add(order["folder"])
            case "forget_folder":
                self.folders.discard(order["folder"])
            case "close":
                self.is_closed = True

    def _release(self, pid: int) -> None:
        known = self.guarded.pop(pid, None)
        if known is not None:
            known.release()


def collect_orders(owner: int) -> Orders:
    """Take orders until the owner closes or is dead, and all it has sent before is read.

    The end of the pipe does not tell of its death. It may come too late, as a child that the owner forked may hold
    the other end; and too early, as the kernel closes a dying process's files one by one, its locks perhaps last.
    """
    orders = Orders()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    look_milliseconds: float | None = OWNER_LOOK_SECONDS * 1000
    with contextlib.suppress(ProcessLookupError):
        owner_pidfd = open_pidfd(owner)
        if owner_pidfd is not None:
            poll.register(owner_pidfd, select.POLLIN)
            look_milliseconds = None
    if os.getppid() != owner:  # it died before the pidfd was opened, which then is a stranger's
        look_milliseconds = 0
    while not orders.is_closed:
        ready = {descriptor for descriptor, _ in poll.poll(look_milliseconds)}
        if 0 in ready:
            chunk = os.read(0, 65536)
            if chunk:
                orders.feed(chunk)
            else:
                poll.unregister(0)
        elif ready or os.getppid() != owner:
            break
    return orders


def end(processes: list[Guarded]) -> None:
    """SIGTERM them all together, and SIGKILL each that outstays its grace."""
    living = [process for process in processes if not process.has_ended()]
    started_at = time.monotonic()
    for process in living:
        process.send(signal.SIGTERM)
    killed: set[int] = set()
    while living:
        waited_seconds = time.monotonic() - started_at
        for process in list(living):
            if process.has_ended():
                process.kill_group()
                living.remove(process)
            elif waited_seconds > process.grace_seconds + KILL_SECONDS:
                living.remove(process)
            elif waited_seconds > process.grace_seconds and process.pid not in killed:
                killed.add(process.pid)
                process.kill_group()
                process.send(signal.SIGKILL)
        time.sleep(0.01)


def end_unless_locked(process: Guarded) -> None:
    """End a process that several owners share, if no other one holds a lock on its file of users.

    The lock is held until the process is gone: who comes meanwhile waits, and does not join a dying server.
    """
    if process.unless_locked is None:
        end([process])
        return
    try:
        users = os.open(process.unless_locked, os.O_RDWR)
    except FileNotFoundError:
        end([process])  # its folder was deleted: nobody can find this process any more
        return
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end([process])
    except BlockingIOError:
        return
    finally:
        os.close(users)


def remove_folder(folder: str) -> None:
    """Delete a folder and all in it; what cannot be deleted stays."""
    if os.path.islink(folder):
        return  # never what the owner made
    for where, folders, files in os.walk(folder, topdown=False):
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(where, name))
        for name in folders:
            path = os.path.join(where, name)
            with contextlib.suppress(OSError):
                (os.unlink if os.path.islink(path) else os.rmdir)(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def main() -> None:
    """Wait for the owner's end, then end what it left: first the processes, last the folders."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who ends a whole service at once must not end the watchdog first
    os.write(1, b"ready\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    orders = collect_orders(int(sys.argv[1]))
    guarded = list(orders.guarded.values())
    end([process for process in guarded if not process.after_others])
    for process in guarded:
        if process.after_others:
            end_unless_locked(process)
    for folder in orders.folders:
        remove_folder(folder)


if __name__ == "__main__":
    main()
