"""Fixtures for tests with worker processes: a supervisor, a Redis, deployments. Conftests import them from here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest

from support.processes.driving import Deploy, Deployment
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor


@pytest.fixture(scope="session")
def supervisor() -> Iterator[Supervisor]:
    """A supervisor that ends all workers even when the test run itself is killed."""
    with Supervisor() as made:
        yield made


@pytest.fixture(scope="session")
def durable_redis_url(supervisor: Supervisor) -> Iterator[str]:
    """A real Redis with an append-only file, as in production."""
    with EmbeddedRedis.temporary(supervisor=supervisor) as server:
        yield server.url


#: Lists of the deployments that currently exist.
_deployments: list[list[Deployment]] = []


@contextmanager
def kept_for_reports(made: list[Any]) -> Iterator[None]:
    """Add the output of these deployments' workers to the report of a failed test."""
    _deployments.append(made)
    try:
        yield
    finally:
        _deployments.remove(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Add the workers' output to the report of a failed test."""
    report: pytest.TestReport = yield
    if report.failed:
        for deployment in chain.from_iterable(_deployments):
            for worker in deployment.workers:
                title = f"Worker {worker.name}, exit code {worker.process.poll()}"
                report.sections.append((title, worker.log()[-8_000:]))
    return report


def _deploying(durable_redis_url: str, supervisor: Supervisor, folders: pytest.TempPathFactory) -> Iterator[Deploy]:
    made: list[Deployment] = []

    def deploy(url: str = durable_redis_url, **settings: Any) -> Deployment:
        deployment = Deployment(url, folders.mktemp("deployment"), supervisor, **settings)
        made.append(deployment)
        return deployment

    with kept_for_reports(made):
        try:
            yield deploy
        finally:
            for deployment in made:
                deployment.close()


@pytest.fixture
def deploy(
    durable_redis_url: str, supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deploy]:
    """Makes deployments that are closed at the end of the test."""
    yield from _deploying(durable_redis_url, supervisor, tmp_path_factory)


@pytest.fixture(scope="module")
def deploy_for_module(
    durable_redis_url: str, supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deploy]:
    """Makes deployments that are closed after the file's last test."""
    yield from _deploying(durable_redis_url, supervisor, tmp_path_factory)
