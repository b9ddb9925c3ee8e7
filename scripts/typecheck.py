"""Run mypy on the package and the benchmarks.

The repository root *is* the package `umbel`, so mypy gets a folder in which it has that name. The benchmarks are a
separate package beside it; it measures some peers that are installed only on demand.
"""

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
    Path(folder, "benchmarks").symlink_to(root / "benchmarks")
    for package in ("umbel.orchestration", "umbel.tasks", "umbel.server", "umbel.workers", "benchmarks"):
        command += ["-p", package]
    sys.exit(subprocess.run(command, cwd=folder, env=os.environ | {"MYPYPATH": folder}, check=False).returncode)
