"""Row by row, what users of LlamaIndex Workflows expect: written as a user would, run on the session's deployment."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def runtime(deployment: Any) -> Any:
    """The deployment is the default runtime; tests that want it by name ask for this."""
    return deployment
