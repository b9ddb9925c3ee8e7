"""Install umbel on every other supported Python of this machine, run the demo on a small tree, and a few tests.

The whole suite runs on one Python; this finds differences between versions: syntax, typing, dependencies without a
wheel, the embedded server. Takes some 25 seconds per Python; one Python per processor is tested in parallel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST = (3, 14)
PACKAGES = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")
#: Events, runs from start to end, and the pool, which depends most on internals of Celery and Python.
TESTS = ("tests/events/test_events.py", "tests/running/test_running.py", "tests/pool/test_pool.py")
_NAME = re.compile(r"python3\.(\d+)")
#: Without settings of umbel and without the variables of a calling make.
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
    """Whether it can create a virtual environment. The shim of a version manager may not point to a Python."""
    check = [str(python), "-c", "import venv, ensurepip, ssl"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def smoke(python: str) -> tuple[bool, str]:
    """Test one Python: returns whether everything passed, and the output up to the first failure."""
    with tempfile.TemporaryDirectory(prefix="umbel-smoke-") as folder:
        # An installation writes into the sources, and several run at once.
        sources = shutil.copytree(ROOT, Path(folder, "umbel"), ignore=shutil.ignore_patterns(".*", "node_modules"))
        settings = [f"PYTHON={python}", f"VENV={folder}/venv", "TREE=examples"]
        # Only imported modules are compiled, not everything that is installed.
        environment = _ENVIRONMENT | {"UMBEL_STATE_DIR": f"{folder}/state", "PIP_NO_COMPILE": "1"}
        inside = [f"{folder}/venv/bin/python", "-m"]
        install = [*inside, "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        tests = [*inside, "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        printed = ""
        for command in (["make", "demo", *settings], install, tests):
            done = subprocess.run(
                command, cwd=sources, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            printed += done.stdout
            if done.returncode != 0:
                return False, f"{printed}{command} failed on {python}: exit code {done.returncode}"
        return True, printed


if __name__ == "__main__":
    found = list(pythons())
    print(f"smoke test on {', '.join(found) or 'no other Python: this machine has none'}", flush=True)
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        results = list(at_once.map(smoke, found))
    for _, printed in results:
        print(printed, flush=True)
    sys.exit(not all(passed for passed, _ in results))
