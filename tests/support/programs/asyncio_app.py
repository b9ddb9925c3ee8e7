"""A Celery app made by umbel for the stock `celery worker`, with the asyncio pool."""

from __future__ import annotations

from support.flows.direct import Looks, Passes
from umbel import Settings, create_app

app = create_app(Settings.from_environment(), Looks, Passes)
app.conf.worker_pool = "umbel.workers.pool:AsyncPool"
