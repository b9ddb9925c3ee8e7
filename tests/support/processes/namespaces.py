"""Commands that run in mount namespaces of their own: what they see of a machine is another one's, or hidden."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest


def in_own_mounts(*mounts: tuple[Path, str]) -> list[str]:
    """What to put before a command so that it sees each first path in place of the second.

    Skips the test where the system does not let this user do that.
    """
    mounting = " && ".join(f"mount --bind {shlex.quote(str(source))} {shlex.quote(at)}" for source, at in mounts)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mounting} && exec "$@"', "sh"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as refused:
        pytest.skip(f"mount namespaces cannot be made here: {refused}")
    return command
