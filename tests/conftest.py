"""Shared by all tests: a scrubbed environment, one embedded deployment, one Redis, one supervisor."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from support.model.report import MODEL_REPORTS
from support.processes.elsewhere import in_process_on
from support.processes.fixtures import (
    deploy,
    deploy_for_module,
    durable_redis_url,
    pytest_runtest_makereport,
    supervisor,
)
from support.store.fixtures import client, prefix, redis_url, settings, store

__all__ = [
    "client",
    "deploy",
    "deploy_for_module",
    "durable_redis_url",
    "prefix",
    "pytest_runtest_makereport",
    "redis_url",
    "settings",
    "store",
    "supervisor",
]

# A developer's own deployment must not affect the tests, nor the tests it.
for variable in [name for name in os.environ if name.startswith("UMBEL_") and name != "UMBEL_MODEL_SEED"]:
    del os.environ[variable]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the chaos suite and of the shared deployment's location; pytest requires them here."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-full", action="store_true", help="the whole matrix of faults, as `make chaos` has it")
    group.addoption("--chaos-seeds", default="1", help="seeds of the chaos suite, parted by commas")
    parser.addoption("--state", help="Redis URL for the runs of the shared deployment, instead of an embedded Redis")
    parser.addoption("--broker", help="its broker, if that is not the same Redis")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Exclude the collected objects, which live until the end, from garbage collection, now and later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def deployment(pytestconfig: pytest.Config) -> Iterator[object]:
    """A real Redis and a real worker thread for the whole session, with periods that make recoveries quick."""
    import umbel

    settings = umbel.Settings(
        lease_seconds=2.0, heartbeat_seconds=0.5, sweep_seconds=0.2, redispatch_seconds=1.0, flush_seconds=0.0
    )
    state, broker = pytestconfig.getoption("--state"), pytestconfig.getoption("--broker")
    elsewhere = in_process_on(settings, state, broker) if state else None
    with elsewhere or umbel.local(in_process=True, settings=settings) as runtime:
        yield runtime


@pytest.fixture
def runtime(deployment: Any) -> Iterator[Any]:
    """The deployment as the default runtime, even if other tests have changed it."""
    with deployment.registering():
        yield deployment


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how much the model test did, and how to replay it."""
    reports = config.stash.get(MODEL_REPORTS, [])
    if reports:
        scripts, runs = (sum(report[i] for report in reports) for i in (0, 1))
        terminalreporter.write_line(f"umbel model: {scripts} operations, {runs} runs, seed {reports[0][2]}")
