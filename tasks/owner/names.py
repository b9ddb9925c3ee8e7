"""Names of owners, the processes that hold leases, and whether an owner is certainly dead."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import socket

_NAME = re.compile(r"\|(?P<host>[^|]*)\|(?P<pid>[1-9][0-9]{0,9})\|(?P<started>[0-9]+)-[0-9a-f]+\Z")


def owner_name(worker: str) -> str:
    """`worker|host|pid|incarnation`: two workers of one name never fence each other.

    `host` is the host's name and a digest of its boot and namespaces. The incarnation begins with the start time of the
    process, in ticks since the boot. Older names lack both and cannot prove that two processes are on one machine.
    """
    pid = os.getpid()
    try:
        started = _state_and_start(pid)[1]
    except OSError:
        started = ""
    return f"{worker}|{_host()}|{pid}|{started}-{secrets.token_hex(6)}"


def process_is_dead(owner: str) -> bool:
    """Whether the owner's process is certainly dead; False if only its lease can tell.

    It is certain for a process of this boot and process namespace if the kernel has no such pid, has it as a zombie, or
    has reused it for a process with another start time. A process missing in `/proc` proves nothing: `/proc` may hide
    those of other users.
    """
    name = _NAME.search(owner)
    if name is None or not _system() or name["host"] != _host():
        return False
    pid = int(name["pid"])
    try:
        state, started = _state_and_start(pid)
    except OSError:
        return _has_no_process(pid)
    return state in "ZX" or started != name["started"]


def _host() -> str:
    return f"{socket.gethostname()}.{_system()}"


@functools.cache
def _system() -> str:
    """Identifies boot, process namespace and time namespace, for which pids and start times hold; empty if unknown.

    The inode of a machine's first process namespace is the same on every Linux machine, so the boot is needed too.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc shows another namespace than this process's
        with open("/proc/sys/kernel/random/boot_id", "rb") as boot:
            parts = boot.read(), _namespace("pid"), _namespace("time")
    except OSError:
        return ""
    return hashlib.blake2s(repr(parts).encode(), digest_size=6).hexdigest()


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:  # the kernel has no such namespaces
        return 0


def _state_and_start(pid: int) -> tuple[str, str]:
    """The state of a process and when it started, see proc(5)."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    return fields[0].decode(), fields[19].decode()


def _has_no_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
