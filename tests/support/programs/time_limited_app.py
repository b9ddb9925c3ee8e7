"""A Celery app with umbel's pool and a hard time limit for all of its tasks."""

from __future__ import annotations

import asyncio
import os

from celery import Celery

import umbel
from umbel import Context, StartEvent, StopEvent, Workflow, step

app = Celery("limited", broker=os.environ["UMBEL_REDIS_URL"])
app.conf.update(
    broker_transport_options={"global_keyprefix": os.environ["UMBEL_KEY_PREFIX"] + ":celery:"},
    worker_pool="umbel.workers.pool:AsyncPool",
    worker_concurrency=10,
    task_time_limit=1,
)


class Endless(Workflow):
    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.Event().wait()
        return StopEvent()


installation = umbel.install(app, Endless)
