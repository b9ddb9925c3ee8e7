"""These tests define workflows inside test functions and run them on the session's deployment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def runtime(deployment: Any) -> Iterator[Any]:
    """The deployment is the default runtime, whatever other tests made it; those that want it by name ask for this."""
    with deployment.registering():
        yield deployment
