"""Install umbel on every other supported Python of this machine, run the demo on a small tree, and a few tests.

The whole suite runs on one Python; this finds what differs between them: syntax, typing, dependencies without a wheel,
the embedded server. Some 25 seconds per Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST = (3, 14)
PACKAGES = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")
#: Events, runs from start to end, and the pool, which depends most on Celery's and Python's insides.
TESTS = ("tests/events/test_events.py", "tests/running/test_running.py", "tests/pool/test_pool.py")
_NAME = re.compile(r"python3\.(\d+)")
#: A caller's make would pass its own variables on.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "UMBEL_"))}


def pythons() -> Iterator[str]:
    """One interpreter per supported version other than this one."""
    folders = [Path(folder) for folder in os.get_exec_path()] + sorted(Path.home().glob(".pyenv/versions/*/bin"))
    seen = {sys.version_info[:2]}
    for folder in folders:
        for path in sorted(folder.glob("python3.*")):
            name = _NAME.fullmatch(path.name)
            version = (3, int(name[1])) if name else (0, 0)
            if (3, 11) <= version <= NEWEST and version not in seen and _is_usable(path):
                seen.add(version)
                yield str(path)


def _is_usable(python: Path) -> bool:
    """Whether it can make a virtual environment. The shim of a version manager may lead nowhere."""
    check = [str(python), "-c", "import venv, ensurepip, ssl"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def smoke(python: str) -> None:
    """Do it on one Python.

    Raises:
        subprocess.CalledProcessError: Something failed; it has printed what.
    """
    with tempfile.TemporaryDirectory(prefix="umbel-smoke-") as folder:
        settings = [f"PYTHON={python}", f"VENV={folder}/venv", "TREE=examples"]
        environment = _ENVIRONMENT | {"UMBEL_STATE_DIR": f"{folder}/state"}
        subprocess.run(["make", "demo", *settings], cwd=ROOT, env=environment, check=True)
        inside = [f"{folder}/venv/bin/python", "-m"]
        install = [*inside, "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        tests = [*inside, "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        for command in (install, tests):
            subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    found = list(pythons())
    print(f"smoke test on {', '.join(found) or 'no other Python: this machine has none'}", flush=True)
    for each in found:
        smoke(each)
