"""Row by row, what users of LlamaIndex Workflows expect: written as a user would, run on the session's deployment."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """What tests of this folder are marked with."""
    config.addinivalue_line("markers", "row(number): the row of docs/compatibility.md that a test is about")


@pytest.fixture(autouse=True)
def default_runtime(runtime: Any) -> None:
    """Every test here has the deployment as its default runtime."""
