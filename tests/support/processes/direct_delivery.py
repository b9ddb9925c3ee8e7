"""Workers that take messages directly into the pool, or through Celery, and what they report about themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery

from support.flows import direct as flows
from support.processes.driving import LONG_LEASES, Deploy, Deployment, WorkerUnderTest
from umbel import WorkflowHandler
from umbel.orchestration.engine.worker_directory import SeenWorker, seen_workers
from umbel.workers.celery_app.app import create_app

FLOWS = "support.flows.direct"
WAYS = pytest.mark.parametrize("way", ["direct", "ordinary"])


def deployed(deploy: Deploy, way: str, **settings: Any) -> Deployment:
    return deploy(**LONG_LEASES | {"redispatch_seconds": 50.0} | settings, direct_delivery=way == "direct")


def worker_of(deployment: Deployment, name: str = "one", concurrency: int = 2, **options: Any) -> WorkerUnderTest:
    return deployment.worker(name, FLOWS, pool="asyncio", concurrency=concurrency, **options).wait_ready()


@contextmanager
def remote_control(deployment: Deployment) -> Iterator[Celery]:
    app = create_app(deployment.settings)
    try:
        yield app
    finally:
        app.umbel.close()
        app.close()


def asked(app: Celery, question: str, *args: Any) -> Any:
    """Return the reply of the only worker."""
    inspect = app.control.inspect(timeout=20, limit=1)
    [answer] = getattr(inspect, question)(*args).values()
    return answer


def held(deployment: Deployment, count: int) -> list[WorkflowHandler]:
    """Start runs and wait until the only step of each is held."""
    handlers = [deployment.start(flows.Looks) for _ in range(count)]
    for handler in handlers:
        deployment.await_effects("looks", run_id=handler.run_id)
    return handlers


def looks(deployment: Deployment, handler: WorkflowHandler) -> dict[str, Any]:
    return deployment.effects("looks", handler.run_id)[-1]


def announced(deployment: Deployment) -> SeenWorker:
    """Return the worker directory's entry of the only worker."""
    [seen] = deployment.runtime.portal.call(seen_workers(deployment.runtime.store))
    return seen


def queued(deployment: Deployment) -> int:
    return int(deployment.store.client.llen(f"{deployment.settings.key_prefix}:broker:{deployment.settings.queue}"))
