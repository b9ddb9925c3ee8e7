"""The benchmark of streams over HTTP reads all events and misses none."""

from __future__ import annotations

import re
import subprocess
import sys

from support import ROOT


def test_a_quick_run_has_every_number_and_misses_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.http_streams", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=110).stdout

    rows = dict(re.split(r"  +", line, maxsplit=1) for line in printed.splitlines())
    assert rows.pop("events missed or doubled (must be 0)") == "0"
    assert len(rows) == 9
    for value in rows.values():
        assert re.match(r"\d[\d,.]* (MB|ms|s)$", value)
