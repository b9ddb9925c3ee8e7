"""The same workflows on LlamaIndex Workflows and on umbel: results, published events and errors are compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from support import TESTS

FOLDER = TESTS / "support" / "llama_index" / "differential"
PROGRAM = FOLDER / "program.py"
CASES: list[str] = [
    name
    for file in sorted(FOLDER.glob("*.py"))
    for name in re.findall(r"^@case\nasync def (\w+)", file.read_text(), re.MULTILINE)
]

#: Cases that differ on purpose, and why; also listed in docs/deviations.md.
EXPLAINED = {
    "a_chain_with_its_progress": "progress names classes by the modules in which they are here (rows 6 and 53)",
}


def executed(*command: str) -> dict[str, Any]:
    """Return what the program prints when it is started with this command, by case."""
    done = subprocess.run(
        [sys.executable, *command, str(PROGRAM)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found


@pytest.fixture(scope="module")
def there() -> dict[str, Any]:
    """The results of LlamaIndex Workflows."""
    return executed()


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    """The results of umbel."""
    return executed("-m", "umbel.workers.cli", "exec", "--llama-index")


def as_named_here(text: str) -> str:
    """Replace the class names in a report by umbel's."""
    return text.replace("<class 'workflows.", "<class 'umbel.")


@pytest.mark.parametrize("name", CASES)
def test_a_workflow_does_what_it_does_in_llama_index_workflows(
    name: str, there: dict[str, Any], here: dict[str, Any]
) -> None:
    expected = json.loads(as_named_here(json.dumps(there[name]))) if name in EXPLAINED else there[name]
    assert here[name] == expected
    assert "the case" not in str(expected), "the program itself is wrong"


def test_sixty_workflows_are_compared_and_few_need_an_explanation(
    there: dict[str, Any], here: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    equal = [name for name in CASES if here[name] == there[name]]
    with capsys.disabled():
        print(f"\ncompared {len(CASES)}, equal {len(equal)}, explained {len(EXPLAINED)}")
    assert len(CASES) >= 60
    assert set(CASES) - set(equal) == EXPLAINED.keys(), "an explanation that nothing needs goes"
