"""Commands in their own mount namespaces, where parts of the file system are replaced or hidden."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest


def in_own_mounts(*mounts: tuple[Path, str]) -> list[str]:
    """Return a command prefix with which a command sees each first path in place of the second.

    Skips the test if the system does not permit this user to do that.
    """
    mounting = " && ".join(f"mount --bind {shlex.quote(str(source))} {shlex.quote(at)}" for source, at in mounts)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mounting} && exec "$@"', "sh"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as refused:
        pytest.skip(f"mount namespaces cannot be made here: {refused}")
    return command


#: A minimal container: one writable folder, everything else read-only; PID 1; a user without privileges.
_CONTAINED = """
set -e
root=$1; writable=$2; shift 2
mount --rbind / "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs none "$root$writable"
mkdir "$root$writable/before"
cd "$root"
pivot_root . ".$writable/before"
mount -t proc proc /proc
umount -l "$writable/before"
rmdir "$writable/before"
cd "$writable"
exec unshare --user --map-user=1000 --map-group=1000 "$@"
"""


def in_container(folder: Path) -> list[str]:
    """Return a command prefix that runs a command as in a container with a read-only file system.

    It is process 1 of its PID namespace, and user 1000 without capabilities. It can write only to `folder`/writable,
    which is empty and its working folder. It uses the host's network. Skips the test as `in_own_mounts` does.
    """
    root, writable = folder / "root", folder / "writable"
    for each in (root, writable):
        each.mkdir(exist_ok=True)
    made = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]
    command = [*made, "sh", "-c", _CONTAINED, "sh", str(root), str(writable)]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as refused:
        pytest.skip(f"namespaces of a container cannot be made here: {refused}")
    return command
