"""No row is forgotten: each has a test that bears its number, or a line in the table of deviations."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
DEVIATIONS = HERE.parents[1] / "docs" / "deviations.md"
ROWS = range(1, 100)


def rows_tested() -> set[int]:
    """The rows that tests of this folder are named after."""
    files = HERE.glob("test_*.py")
    return {int(row) for file in files for row in re.findall(r"def test_row_(\d\d)_", file.read_text())}


def deviations() -> dict[str, str]:
    """The lines of the table of deviations: what is different there, and its rows."""
    cells = [line.strip("|").split(" | ") for line in DEVIATIONS.read_text().splitlines() if line.startswith("| ")]
    head, rule, *lines = [[cell.strip() for cell in line] for line in cells]
    assert head == ["row", "there", "here", "why"]
    assert set(rule) == {"---"}
    return {there: rows for rows, there, *_ in lines}


def rows_deviating() -> set[int]:
    """The rows that the table of deviations names."""
    return {int(number) for rows in deviations().values() for number in re.findall(r"\d+", rows)}


def test_every_row_has_a_test_or_a_deviation() -> None:
    known = rows_tested() | rows_deviating()

    assert [row for row in ROWS if row not in known] == []


def test_the_table_of_deviations_names_rows_or_none() -> None:
    wrong = {there: rows for there, rows in deviations().items() if not re.fullmatch(r"–|\d+(, \d+)*", rows)}

    assert wrong == {}


def test_what_a_deviating_row_does_here_is_shown_by_a_test() -> None:
    assert {row for row in rows_deviating() if row in ROWS} <= rows_tested()
