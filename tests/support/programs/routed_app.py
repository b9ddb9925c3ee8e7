"""A Celery app that compresses its messages and routes tasks by name."""

from __future__ import annotations

import os

from celery import Celery

import umbel
from umbel import Event, StartEvent, StopEvent, Workflow, step

URL = os.environ["UMBEL_REDIS_URL"]

app = Celery("routed", broker=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": os.environ["UMBEL_KEY_PREFIX"] + ":celery:"},
    task_compression="gzip",
    task_routes={"Routed.answer": {"queue": "side"}, "Routed.last": {"queue": "other"}},
)


class Asked(Event):
    n: int


class Answered(Event):
    n: int


class Routed(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Asked:
        return Asked(n=ev.n)

    @step
    def answer(self, ev: Asked) -> Answered:
        return Answered(n=ev.n * 2)

    @step(queue="named")
    def last(self, ev: Answered) -> StopEvent:
        return StopEvent(result=ev.n)


installation = umbel.install(app, Routed)
