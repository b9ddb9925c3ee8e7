"""Fixtures of the chaos suite: a Redis per test, deployments on it, seeds, and the recovery report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.recovery_report import RecoveryReport
from support.faults.failpoint_places import every_place
from support.faults.redis_under_test import RedisUnderTest
from support.processes.fixtures import kept_for_reports
from umbel.workers.embedded.supervisor import Supervisor

REPORT = pytest.StashKey[RecoveryReport]()


def pytest_configure(config: pytest.Config) -> None:
    """Add the suite's marker and its report."""
    config.addinivalue_line("markers", "full_matrix: too long for `make test`; executed by `make chaos`")
    config.stash[REPORT] = RecoveryReport()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of the full matrix in `make test`."""
    if config.getoption("--chaos-full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full_matrix")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a seed once per seed."""
    if "seed" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--chaos-seeds").split(",")
        metafunc.parametrize("seed", [int(seed) for seed in seeds], ids=lambda seed: f"seed{seed}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Pass the measurements of an xdist worker to the controller; fail if a failpoint was never passed."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["chaos"] = session.config.stash[REPORT].exported()
        return
    never = never_passed(session.config)
    if never:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the measurements of an xdist worker to the report."""
    node.config.stash[REPORT].take(getattr(node, "workeroutput", {}).get("chaos", {}))


def never_passed(config: pytest.Config) -> list[str]:
    """Return the failpoints that the whole matrix has never passed; empty unless it ran with all seeds."""
    is_whole = config.getoption("--chaos-full") and config.args == ["tests/chaos"]
    if not is_whole or len(config.getoption("--chaos-seeds").split(",")) < 3:
        return []
    return sorted(every_place() - config.stash[REPORT].passed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the report, the failpoints that were never passed, and how to replay failed tests."""
    lines = config.stash[REPORT].lines()
    if lines:
        terminalreporter.section("chaos")
        for line in lines:
            terminalreporter.write_line(line)
        passed = config.stash[REPORT].passed & every_place()
        terminalreporter.write_line(f"{len(passed)} of {len(every_place())} failpoints were passed")
    for place in never_passed(config):
        terminalreporter.write_line(f"NEVER PASSED: {place}")
    for failed in terminalreporter.stats.get("failed", []):
        seed = re.search(r"seed(\d+)", failed.nodeid)
        if seed is not None:
            options = f"--chaos-full --chaos-seeds={seed[1]}"
            terminalreporter.write_line(
                f"replay: .venv/bin/pytest {options} '{failed.nodeid}'  (all: make chaos SEED={seed[1]})"
            )


@pytest.fixture
def report(pytestconfig: pytest.Config) -> RecoveryReport:
    """Collects what the report at the end of the session shows."""
    return pytestconfig.stash[REPORT]


@pytest.fixture
def redis_server(tmp_path: Path, supervisor: Supervisor) -> Iterator[RedisUnderTest]:
    """A Redis for this test alone, with an append-only file."""
    server = RedisUnderTest(tmp_path / "redis", supervisor)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def deploy_chaos(
    redis_server: RedisUnderTest, supervisor: Supervisor, tmp_path: Path, report: RecoveryReport
) -> Iterator[DeployChaos]:
    """Makes deployments of the chaos workflows that are closed at the end of the test."""
    made: list[ChaosDeployment] = []

    def deploy(url: str | None = None, *, seed: int = 1, **settings: Any) -> ChaosDeployment:
        folder = tmp_path / f"deployment-{len(made)}"
        deployment = ChaosDeployment(url or redis_server.url, folder, supervisor, **settings)
        deployment.seed = seed
        made.append(deployment)
        return deployment

    with kept_for_reports(made):
        try:
            yield deploy
        finally:
            for deployment in made:
                deployment.close()
                report.passed |= deployment.failpoints_hit()
