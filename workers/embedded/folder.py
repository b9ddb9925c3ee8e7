"""The folder of an embedded server: its files, and the locks on them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ...orchestration.model.errors import ConfigurationError, UmbelError
from .configuration import read_address

#: Lines of the server's log shown in an error.
_LOG_TAIL_LINES = 20
#: Files and folders that mark the folder of a project.
PROJECT_MARKS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
#: How many bytes of each data file are searched for run keys.
_LOOKED_AT_BYTES = 64 << 20
#: The key of a run, and what a server writes about itself at the beginning of a data file.
_RUN_KEY = re.compile(rb"\{\w+\}:run:([\w.~-]+)")
_WRITER = re.compile(rb"\xfa.(redis|valkey)-ver.([0-9.]+)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class EmbeddedRedisFailed(UmbelError):
    """An embedded server did not start, answer or stop; if it wrote a log, the text ends with its last lines."""


def state_folder(name: str | None = None, *, environ: Mapping[str, str] | None = None) -> Path:
    """The folder of an embedded server: `$UMBEL_STATE_DIR/<name>`, else `~/.local/state/umbel/<name>`.

    Args:
        name: The name of the state; None means the project's own, see `project_state`.
        environ: Environment variables; None means those of this process.

    Raises:
        ConfigurationError: The name cannot be a folder's, or there is no home folder.
    """
    if name is None:
        name = project_state(Path.cwd())
    elif not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"A state folder cannot be named {name!r}: a name has up to 64 letters, digits, '_', '.' and '-', and "
            f"begins with a letter or digit. Choose such a name."
        )
    root = (os.environ if environ is None else environ).get("UMBEL_STATE_DIR")
    try:
        return (Path(root) if root else Path("~/.local/state/umbel")).expanduser() / name
    except RuntimeError:
        raise ConfigurationError(
            "The embedded Redis keeps its state in the home folder, and this user has none. Set UMBEL_STATE_DIR to a "
            "folder you may write to, or UMBEL_REDIS_URL to a Redis."
        ) from None


def project_state(folder: Path) -> str:
    """The name of the state of the project that a folder belongs to.

    The project is the nearest folder that contains one of `PROJECT_MARKS`: the folder itself or one of its parents
    below the home folder. If there is none, it is the folder itself. So two projects never execute each other's code.
    """
    folder = folder.resolve()
    home = Path(os.path.expanduser("~"))
    upwards = [each for each in (folder, *folder.parents) if each not in (home, *home.parents)]
    project = next((each for each in upwards if any((each / mark).exists() for mark in PROJECT_MARKS)), folder)
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", project.name).strip("-._")[:40] or "project"
    return f"{label}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """Paths of the files in a server's folder, which need not exist."""

    path: Path

    @property
    def server_lock(self) -> Path:
        """Held exclusively by the server process."""
        return self.path / "server.lock"

    @property
    def users_lock(self) -> Path:
        """Held shared by each user of the server, and exclusively by the user that stops it."""
        return self.path / "users.lock"

    @property
    def configuration(self) -> Path:
        """The configuration of the server's last start."""
        return self.path / "server.conf"

    @property
    def log(self) -> Path:
        """The log of the server's last start."""
        return self.path / "server.log"

    def is_served_from(self, working_folder: Path) -> bool:
        """Whether a server with this working folder serves this folder, not another one that this is a copy of."""
        try:
            return working_folder.samefile(self.path)
        except OSError:
            return False

    def read_log(self) -> str:
        """The log of the server's last start; empty if there is none."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")
        return ""

    def contents(self) -> str:
        """A description of the data, read without a server: number of runs (approximate), size, last write, writer."""
        files = [file for file in sorted(self.path.glob("appendonlydir/*")) if file.is_file()]
        size, used_at, runs, writer = 0, 0.0, set(), "an unknown server"
        for file in files:
            with contextlib.suppress(OSError):
                status = file.stat()
                size, used_at = size + status.st_size, max(used_at, status.st_mtime)
                with open(file, "rb") as opened:
                    data = opened.read(_LOOKED_AT_BYTES)
                runs.update(_RUN_KEY.findall(data))
                if written_by := _WRITER.search(data[:200]):
                    writer = f"{written_by[1].decode().capitalize()} {written_by[2].decode()}"
        last = datetime.fromtimestamp(used_at).astimezone().strftime("%Y-%m-%d %H:%M")
        return f"about {len(runs):,} runs ({size / 1e6:,.1f} MB, last written on {last} by {writer})"

    def log_tail(self) -> str:
        """The last lines of the log, without the password, as the end of an error's text."""
        text = self.read_log()
        address = read_address(self.configuration)
        if address is not None:
            text = text.replace(address.password, "***")
        lines = text.splitlines()[-_LOG_TAIL_LINES:]
        return "\nThe end of its log:\n" + "\n".join(lines) if lines else " Its log is empty."


def open_lock(path: Path) -> int:
    """Open a lock file, creating it if missing; the lock is not taken yet.

    Raises:
        EmbeddedRedisFailed: This user lacks the permission.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedRedisFailed(
            f"The lock file {path} of the embedded Redis cannot be opened: {error}. Use a state folder of your own."
        ) from error


def try_lock(descriptor: int, *, is_shared: bool) -> bool:
    """Take a shared or exclusive lock, or change to one, without waiting; False if another process prevents it.

    If a change fails, the former lock is lost, too.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether any process holds a lock on this file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(descriptor, is_shared=False)
    finally:
        os.close(descriptor)
