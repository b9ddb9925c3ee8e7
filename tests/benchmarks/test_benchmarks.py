"""The benchmarks run and print all their figures. The values themselves are not tested here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contender import Contender
from benchmarks.document import BEGIN, END, write_section
from benchmarks.run import blank_rows, measure_once, sections_of
from benchmarks.sections import BY_HAND, CANVAS, DBOS, DRAMATIQ, LLAMA_INDEX, TASKIQ, Entry, sections
from benchmarks.shape import QUICK, Shape, Sizes
from benchmarks.table import HEADS, Row, markdown, plain
from support import ROOT


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240).stdout


def latency(numbers: dict[str, list[float | None]], **targets: dict[str, float]) -> Row:
    return Row(Shape("group", "chain", "ms", "lower", lambda *_: None, **targets), numbers)


@pytest.mark.timeout(300)
def test_a_quick_run_has_a_number_of_umbel_in_every_row_and_a_point_on_every_curve() -> None:
    # Of contenders that differ only in their number of processes, one is enough here.
    printed = run("--quick", "--repeat", "1", "--contenders", BY_HAND, CANVAS, DRAMATIQ, TASKIQ, LLAMA_INDEX, DBOS)

    for section in sections(QUICK):
        for shape in section.shapes:
            [line] = [line for line in printed.splitlines() if line.startswith(f"{shape.title}  ")]
            assert section.entries[0].name in line
    for at in (*QUICK.run_sizes, *QUICK.live_runs, *QUICK.worker_processes):
        assert f"  {at}  " in printed


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.contend_dramatiq", raising=False)
    monkeypatch.setitem(sys.modules, "dramatiq", None)

    assert Entry("dramatiq", "contend_dramatiq:Dramatiq").make() is None


def test_a_peer_that_fails_is_reported_and_the_others_are_measured() -> None:
    def one_breaks(contender: Contender, _: Sizes) -> float:
        if contender.name == "breaks":
            raise TimeoutError("no answer")
        return 1.0

    umbel, breaks = Entry("umbel", "contend_umbel:Umbel").make(), Entry("umbel", "contend_umbel:Umbel").make()
    assert umbel is not None
    assert breaks is not None
    breaks.name = "breaks"
    shape, progress = Shape("group", "chain", "ms", "lower", one_breaks), list[str]()

    [row] = blank_rows([shape], [umbel, breaks])
    for repetition in range(2):
        measure_once([row], [umbel, breaks], QUICK, repetition, 2, progress.append)
    assert row.numbers == {"umbel": [1.0, 1.0], "breaks": [None, None]}
    assert progress[1] == "breaks failed at 'chain', repetition 2: TimeoutError('no answer')."
    with pytest.raises(TimeoutError, match="no answer"):
        measure_once(blank_rows([shape], [breaks, umbel]), [breaks, umbel], QUICK, 0, 2, progress.append)


def test_groups_and_contenders_can_be_chosen_and_umbel_is_always_there() -> None:
    [chosen] = sections_of(QUICK, only={"single", "chain"}, names={"taskiq"})

    assert [entry.name for entry in chosen.entries] == ["umbel", "taskiq"]
    assert {shape.group for shape in chosen.shapes} == {"single", "chain"}


def test_ratios_compare_the_numbers_of_one_repetition() -> None:
    row = latency({"umbel": [10.0, 20.0, 40.0], "canvas": [20.0, 50.0, 20.0], "peer": [None, None, None]})

    assert row.ratio("canvas") == 0.5
    assert row.lines() == [
        ("chain", "ms", "umbel", "20.0 [10.0 to 40.0]", "", "", ""),
        ("", "", "canvas", "20.0 [20.0 to 50.0]", "0.50 x", "", ""),
    ]


def test_a_target_stands_beside_its_row_and_whether_it_is_met() -> None:
    numbers: dict[str, list[float | None]] = {"umbel": [3.0], "canvas": [4.0], "peer": [1.0]}
    slow = latency(numbers, targets={"canvas": 0.8, "peer": 2.0}, limits={"umbel": 5.0})
    throughput = Row(Shape("g", "chains", "steps/s", "higher", lambda *_: None, {"peer": 4.0}), numbers)

    assert [line[-2:] for line in slow.lines()] == [
        ("at most 5 ms", "met"),
        ("at most 0.8 x", "met"),
        ("at most 2 x", "not met"),
    ]
    assert throughput.lines()[-1][-2:] == ("at least 4 x", "not met")


def test_a_table_is_the_same_for_a_document_and_a_terminal() -> None:
    lines = [HEADS, *latency({"umbel": [1.0], "canvas": [2.0]}).lines()]

    assert markdown(lines).splitlines()[2:] == [
        "| chain | ms | umbel | 1.00 |  |  |  |",
        "|  |  | canvas | 2.00 | 0.50 x |  |  |",
    ]
    assert [line.split() for line in plain(lines).splitlines()[1:]] == [
        ["chain", "ms", "umbel", "1.00"],
        ["canvas", "2.00", "0.50", "x"],
    ]


def test_writing_the_document_replaces_only_the_section_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "docs" / "performance.md"
    write_section(document, "first")
    assert document.read_text() == f"# Performance\n\n{BEGIN}\nfirst\n{END}\n"

    document.write_text(f"# Speed\n\nWhat it means.\n\n{BEGIN}\nfirst\n{END}\n\n## More\n")
    write_section(document, "second")
    assert document.read_text() == f"# Speed\n\nWhat it means.\n\n{BEGIN}\nsecond\n{END}\n\n## More\n"
