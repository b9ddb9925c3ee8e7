"""The server is an optional extra: umbel works without it, and says what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_without(package: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python that lacks a package."""
    lacking = f"import sys; sys.modules[{package!r}] = None\n"
    return subprocess.run([sys.executable, "-c", lacking + program], capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("package", ["starlette"])
def test_what_is_missing_is_named_with_the_command_that_installs_it(package: str) -> None:
    done = run_without(package, "import umbel; print('umbel is there'); import umbel.server")

    assert done.stdout == "umbel is there\n"
    assert f"umbel.server needs {package}" in done.stderr
    assert "pip install 'umbel[server]'" in done.stderr


def test_the_command_line_needs_no_server() -> None:
    done = run_without("starlette", "from umbel.workers.cli.main import cli; cli(['runs', '--help'])")

    assert done.returncode == 0, done.stderr
