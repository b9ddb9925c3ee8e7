"""The examples can be imported here as in their own folder, and worker processes execute them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import umbel  # noqa: E402  # the path comes first: workers inherit it


@pytest.fixture(scope="module")
def workers() -> Iterator[umbel.Runtime]:
    """A Redis and one worker process of two for all examples that tests import."""
    targets = [str(EXAMPLES / f"{name}.py") for name in ("code_audit", "parallel", "approval")]
    with umbel.local(*targets, str(Path(__file__).with_name("timed_streaming.py")), concurrency=2) as runtime:
        yield runtime
