"""Worker processes for the examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import umbel
from support.examples.folder import EXAMPLES


@pytest.fixture(scope="module")
def workers() -> Iterator[umbel.Runtime]:
    """A Redis and one worker process with two slots for all examples that tests import."""
    targets = [str(EXAMPLES / f"{name}.py") for name in ("code_audit", "parallel", "approval")]
    with umbel.local(*targets, "support.examples.timed_streaming", pool="prefork", concurrency=2) as runtime:
        yield runtime
