"""The notebook works as described, cell by cell; and a kernel that ends without cleanup leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.programs import notebook_kernel

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    """Return all cells of the notebook."""
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    return found


def execute(*names: str, temporary: Path) -> str:
    """Execute these cells in a new kernel."""
    kernel = [sys.executable, "-W", "error", notebook_kernel.__file__, str(NOTEBOOK), *names]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(kernel, env=environment, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_output_is_stored(cells: list[dict[str, Any]]) -> None:
    code = [each for each in cells if each["cell_type"] == "code"]

    assert len(code) >= 5
    assert all(each["outputs"] == [] and each["execution_count"] is None for each in code)
    assert len({each["id"] for each in cells}) == len(cells)


def test_the_cells_run_in_their_order_on_a_deployment_that_the_first_one_opens(
    cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    names = [each["id"] for each in cells if each["cell_type"] == "code"]

    assert execute(*names, temporary=tmp_path).splitlines() == [
        "the rain came in the night",
        "and nobody was awake",
        "Out: 2",
        "Out: [3, 3, 5]",
        "Out: [('one', 3), ('three', 5), ('two', 3)]",
        "Buy tea?",
        "Out: 'bought'",
    ]
    assert list(tmp_path.iterdir()) == []


def test_cells_are_executed_again_and_a_kernel_that_just_ends_leaves_nothing(tmp_path: Path) -> None:
    again = ["define-poet", "run-poet", "result"]

    printed = execute("start", *again, *again, "define-order", temporary=tmp_path).splitlines()

    assert printed == ["the rain came in the night", "and nobody was awake", "Out: 2"] * 2 + ["Buy tea?"]
    assert list(tmp_path.iterdir()) == []
