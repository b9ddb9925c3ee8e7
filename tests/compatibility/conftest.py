"""What users of LlamaIndex Workflows expect, row by row: written as a user would, run on the session's deployment."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests in this folder."""
    config.addinivalue_line("markers", "row(number): the row of docs/compatibility.md that a test is about")


@pytest.fixture(autouse=True)
def default_runtime(runtime: Any) -> None:
    """Make the deployment the default runtime of every test here."""
