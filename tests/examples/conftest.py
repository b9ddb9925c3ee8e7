"""Worker processes for the examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples_folder import EXAMPLES

import umbel


@pytest.fixture(scope="module")
def workers() -> Iterator[umbel.Runtime]:
    """A Redis and one worker process of two for all examples that tests import."""
    targets = [str(EXAMPLES / f"{name}.py") for name in ("code_audit", "parallel", "approval")]
    with umbel.local(
        *targets, str(Path(__file__).with_name("timed_streaming.py")), pool="prefork", concurrency=2
    ) as runtime:
        yield runtime
