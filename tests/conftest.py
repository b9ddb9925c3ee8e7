"""What all tests share: a scrubbed environment, and one embedded deployment for the tests of the programming model."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# A developer's own deployment must not leak into the tests, nor the tests into it.
for variable in [name for name in os.environ if name.startswith("UMBEL_") and name != "UMBEL_MODEL_SEED"]:
    del os.environ[variable]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the chaos suite; pytest wants them here."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-full", action="store_true", help="the whole matrix of faults, as `make chaos` has it")
    group.addoption("--chaos-seeds", default="1", help="seeds of the chaos suite, parted by commas")


@pytest.fixture(scope="session")
def deployment() -> Iterator[object]:
    """A real Redis and a real worker thread for the whole session, with times that make recoveries quick."""
    import umbel

    settings = umbel.Settings(
        lease_seconds=2.0, heartbeat_seconds=0.5, sweep_seconds=0.2, redispatch_seconds=1.0, flush_seconds=0.0
    )
    with umbel.local(in_process=True, settings=settings) as runtime:
        yield runtime
