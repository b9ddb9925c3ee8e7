"""A Celery app that existed before umbel: its own tasks, settings and default queue."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery

import umbel
from umbel import Event, StartEvent, StopEvent, Workflow, step

URL = os.environ["UMBEL_REDIS_URL"]
#: Isolated on a shared Redis by its own prefix.
PREFIX = os.environ["UMBEL_KEY_PREFIX"] + ":celery:"

app = Celery("existing", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": PREFIX},
    result_backend_transport_options={"global_keyprefix": PREFIX},
    task_acks_late=False,
    worker_prefetch_multiplier=4,
    task_time_limit=300,
)


def settings_of(of: Celery) -> dict[str, str]:
    """Return all its settings, including defaults."""
    return {name: repr(value) for name, value in of.conf.table(with_defaults=True).items()}


class Asked(Event):
    n: int


class Doubled(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Asked:
        await asyncio.sleep(0)
        return Asked(n=ev.n)

    @step
    def answer(self, ev: Asked) -> StopEvent:
        return StopEvent(result=ev.n * 2)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def double_by_workflow(n: int) -> Any:
    """A task that starts a run and waits for it, like any other code."""
    return Doubled().start(n=n).result(timeout=40)


before = settings_of(app)
installation = umbel.install(app, Doubled)
after = settings_of(app)
