"""Each test that the pages on reliability and security name as proof exists under that name."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from support.docs.pages import ROOT, page, spans, table

PAGE, SECURITY = "docs/reliability.md", "docs/security.md"
NAMED = sorted({span for name in (PAGE, SECURITY) for span in spans(name) if re.fullmatch(r"[\w/]+\.py::\w+", span)})


@cache
def functions_of(file: str) -> set[str]:
    """Return the names of the test functions of a file below `tests/`."""
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


def test_every_threat_has_an_answer_and_a_proof() -> None:
    threats = table(SECURITY, "threat", "what umbel does", "proved by")

    assert len(threats) > 10
    assert [threat for threat, (answer, proof) in threats.items() if not answer or "::" not in proof] == []


def test_the_readme_promises_nothing_that_the_page_does_not_take_up() -> None:
    assert "docs/reliability.md" in page("README.md")
