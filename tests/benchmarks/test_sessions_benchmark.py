"""The session benchmark asks questions, and no answer goes to the wrong question."""

from __future__ import annotations

import re
import subprocess
import sys

from support import ROOT


def test_a_quick_run_has_every_number_and_no_answer_goes_astray() -> None:
    command = [sys.executable, "-m", "benchmarks.sessions", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout

    rows = dict(re.split(r"  +", line, maxsplit=1) for line in printed.splitlines())
    assert rows["runs"] == "100"
    assert rows["answers astray (must be 0)"] == "0"
    assert rows["sessions out of turn (must be 0)"] == "0"
    assert re.match(r"[\d,]+ bytes$", rows["Redis per idle session (target: below 2,000)"])
    assert len(rows) == 6
