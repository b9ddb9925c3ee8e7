"""The benchmark of waiting runs asks, kills every process, answers, and loses nothing."""

from __future__ import annotations

import re
import subprocess
import sys

from support import ROOT


def test_a_quick_run_has_every_number_and_loses_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.waiting", "--quick", "--processes", "1"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=110).stdout

    rows = dict(re.split(r"  +", line, maxsplit=1) for line in printed.splitlines())
    assert rows.pop("runs that waited") == "20"
    assert rows.pop("lost (must be 0)") == "0"
    assert len(rows) == 6
    for value in rows.values():
        assert re.match(r"[+-]?\d[\d,.]* (MB|bytes|runs/s)$", value)
