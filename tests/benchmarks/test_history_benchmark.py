"""The history benchmark runs and prints every figure."""

from __future__ import annotations

import re
import subprocess
import sys

from support import ROOT


def test_a_quick_run_has_every_number() -> None:
    command = [sys.executable, "-m", "benchmarks.history", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout

    rows = dict(re.split(r"  +", line, maxsplit=1) for line in printed.splitlines())
    assert len(rows) == 8
    assert all(re.fullmatch(r"-?[\d,.]+ (us|s|%)", number) for number in rows.values()), rows
