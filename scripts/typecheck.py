"""Run mypy on the package: the repository root *is* package `umbel`, so mypy is shown it under that name."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "umbel").symlink_to(root)
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml")]
    command += ["--cache-dir", str(root / ".mypy_cache")]
    for package in ("orchestration", "tasks", "server", "workers"):
        command += ["-p", f"umbel.{package}"]
    sys.exit(subprocess.run(command, cwd=folder, env=os.environ | {"MYPYPATH": folder}, check=False).returncode)
