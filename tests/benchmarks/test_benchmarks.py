"""The benchmarks run and tell what they are to tell. What they measure is nobody's business here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks_folder import ROOT

from benchmarks.contenders import CONTENDERS
from benchmarks.measure import QUICK, Shape, shapes
from benchmarks.table import BEGIN, END, Row, markdown, plain, write_section

NUMBER = r"\d[\d,.]*"


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=110).stdout


def row(title: str, unit: str, numbers: dict[str, list[float | None]], better: str) -> Row:
    shape = Shape("group", title, unit, "higher" if better == "higher" else "lower", lambda *_: None)
    return Row(shape, numbers)


@pytest.mark.timeout(120)
def test_a_quick_run_has_a_number_in_every_row_for_every_contender() -> None:
    printed = run("run", "--quick", "--repeat", "1")

    head, *lines = printed.strip().splitlines()
    assert all(name in head for name in CONTENDERS)
    rows = {line[: head.index("unit")].strip(): line[head.index("unit") :].split() for line in lines}
    for shape in shapes(QUICK):
        unit, *cells = rows[shape.title]
        assert unit == shape.unit
        is_missing = shape.group == "progress"  # canvas has no such thing
        assert re.fullmatch(NUMBER, cells[0])
        assert re.fullmatch(NUMBER, cells[1])
        assert re.fullmatch("-" if is_missing else NUMBER, cells[2])


@pytest.mark.timeout(120)
def test_one_group_is_measured_alone_for_the_chosen_contenders() -> None:
    printed = run("single", "--quick", "--repeat", "2", "--contenders", "umbel", "by hand")

    head, only, *_ = printed.strip().splitlines()
    assert head.split() == ["shape", "unit", "umbel", "by", "hand", "vs", "by", "hand"]
    assert re.search(rf"^one step, start to result +ms +{NUMBER} \[{NUMBER} to {NUMBER}\] ", only)


def test_ratios_compare_the_numbers_of_one_repetition_and_more_is_always_better() -> None:
    latency = row("chain", "ms", {"umbel": [10.0, 20.0, 40.0], "canvas": [20.0, 60.0, 20.0]}, "lower")
    throughput = row("chains", "steps/s", {"umbel": [300.0, 100.0], "canvas": [100.0, 100.0]}, "higher")
    without = row("progress", "ms", {"umbel": [1.0], "canvas": [None]}, "lower")

    assert latency.times_better("umbel", "canvas") == 2.0
    assert throughput.times_better("umbel", "canvas") == 2.0
    assert without.times_better("umbel", "canvas") is None
    assert markdown([latency, without], ["umbel", "canvas"]).splitlines()[2:] == [
        "| chain | ms | 20.0 [10.0 to 40.0] | 20.0 [20.0 to 60.0] | **2.00** |",
        "| progress | ms | 1.00 | - | - |",
    ]
    assert plain([without], ["umbel", "canvas"]).splitlines()[1].split() == ["progress", "ms", "1.00", "-", "-"]


def test_writing_the_document_replaces_only_the_section_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "docs" / "performance.md"
    write_section(document, "first")
    assert document.read_text() == f"# Performance\n\n{BEGIN}\nfirst\n{END}\n"

    document.write_text(f"# Speed\n\nWhat it means.\n\n{BEGIN}\nfirst\n{END}\n\n## More\n")
    write_section(document, "second")
    assert document.read_text() == f"# Speed\n\nWhat it means.\n\n{BEGIN}\nsecond\n{END}\n\n## More\n"
