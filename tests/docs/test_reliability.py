"""What the page on reliability names as proof is there: each test it names exists, under that name."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from pages import ROOT, page, spans, table

PAGE = "docs/reliability.md"
NAMED = sorted({span for span in spans(PAGE) if re.fullmatch(r"[\w/]+\.py::\w+", span)})


@cache
def functions_of(file: str) -> set[str]:
    """Names of the test functions of a file below `tests/`."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_as_proof_exists(name: str) -> None:
    file, _, function = name.partition("::")

    assert function in functions_of(file)


def test_every_promise_has_a_proof() -> None:
    promises = table(PAGE, "promise", "proved by")

    assert len(promises) > 10
    assert [promise for promise, (proof,) in promises.items() if "::" not in proof] == []


def test_the_readme_promises_nothing_that_the_page_does_not_take_up() -> None:
    assert "docs/reliability.md" in page("README.md")
