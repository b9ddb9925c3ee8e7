"""Every row is covered: by a test that is marked with its number, or by a line in the table of deviations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

HERE = Path(__file__).parent
ROWS = list(range(1, 100))


def marks(file: Path) -> Iterator[int]:
    """Yield the rows with which tests of a file are marked: `@pytest.mark.row(17)`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for each in node.decorator_list:
                if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.row":
                    yield from (int(ast.literal_eval(argument)) for argument in each.args)


def rows_tested() -> set[int]:
    """Return the rows with which tests of this folder are marked."""
    return {row for file in HERE.glob("test_*.py") for row in marks(file)}


def table(page: str, *head: str) -> list[list[str]]:
    """Return the lines of the only table of a page."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    assert cells[0] == list(head)
    assert set(cells[1]) == {"---"}
    return cells[2:]


def deviations() -> dict[str, str]:
    """Return the lines of the table of deviations: what differs in LlamaIndex Workflows -> its rows."""
    return {there: rows for rows, there, *_ in table("deviations.md", "row", "there", "here", "why")}


def rows_deviating() -> set[int]:
    """Return the rows that the table of deviations names."""
    return {int(number) for rows in deviations().values() for number in re.findall(r"\d+", rows)}


def test_the_page_on_compatibility_lists_every_row_in_order() -> None:
    rows = table("compatibility.md", "row", "feature", "how it shows")

    assert [int(row) for row, *_ in rows] == ROWS
    assert all(cell for row in rows for cell in row)


def test_a_test_is_marked_with_a_row_that_there_is() -> None:
    assert rows_tested() <= set(ROWS)


def test_every_row_has_a_test_or_a_deviation() -> None:
    known = rows_tested() | rows_deviating()

    assert [row for row in ROWS if row not in known] == []


def test_the_table_of_deviations_names_rows_or_none() -> None:
    wrong = {there: rows for there, rows in deviations().items() if not re.fullmatch(r"–|\d+(, \d+)*", rows)}

    assert wrong == {}


def test_what_a_deviating_row_does_here_is_shown_by_a_test() -> None:
    assert {row for row in rows_deviating() if row in ROWS} <= rows_tested()
