"""A Celery app whose tasks write one line per execution to a file, for tests of the Redis transport.

A worker process reads its broker, transport and folder from TRANSPORT_APP, a JSON object; a test builds the same
app with `build`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

import celery
import kombu
from celery.utils.log import get_logger
from celery.worker.request import Request

from umbel.workers.transport.channel import TRANSPORT, use_transport

#: How the transport is chosen: installed in place of kombu's, named in a setting, or kombu's own.
Kind = Literal["umbel", "umbel by setting", "stock"]


#: A second binding of the queue, known only to processes that have declared it.
TOPICS = kombu.Exchange("topics", type="topic")


def build(broker: str, kind: Kind, options: dict[str, Any]) -> celery.Celery:
    """Return an app configured as umbel's workers are, as far as the transport is concerned."""
    app = celery.Celery("support.programs.transport_app", broker=broker, set_as_current=False)
    app.conf.update(
        task_default_queue="work",
        task_queues=[
            kombu.Queue("work", kombu.Exchange("work"), "work", bindings=[kombu.binding(TOPICS, routing_key="#.work")]),
        ],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=options,
    )
    if kind == "umbel":
        use_transport(app)
    elif kind == "umbel by setting":
        app.conf.update(broker_transport=TRANSPORT)
    return app


class LoudRequest(Request):
    """Logs when the main process learns that a task runs, which is after the task has begun."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        get_logger(__name__).info("Accepted %s", self.name)


class LoudTask(celery.Task):
    Request = f"{__name__}:LoudRequest"


class StumblingRequest(Request):
    """Has a defect that no message is to blame for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise KeyError("a defect of a consumer")


class StumblingTask(celery.Task):
    Request = f"{__name__}:StumblingRequest"


def _effect(folder: str, line: str) -> None:
    descriptor = os.open(Path(folder) / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def hold(folder: str, name: str) -> None:
    """Record the start, wait until the file `open-<name>` exists, and record the end."""
    _effect(folder, f"start {name}")
    while not (Path(folder) / f"open-{name}").exists():
        time.sleep(0.01)
    _effect(folder, f"end {name}")


def note(folder: str, name: str) -> None:
    """Record the execution."""
    _effect(folder, f"note {name} by {os.environ.get('TRANSPORT_APP_NAME')}")


if "TRANSPORT_APP" in os.environ:
    app = build(**json.loads(os.environ["TRANSPORT_APP"]))
    app.task(name="hold", base=LoudTask)(hold)
    app.task(name="note", base=LoudTask)(note)
    app.task(name="stumble", base=StumblingTask)(note)
