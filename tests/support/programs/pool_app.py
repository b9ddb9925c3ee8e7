"""A Celery app whose tasks run in each pool, to compare the asyncio pool with Celery's own.

A worker process reads its setup from POOL_APP, a JSON object; a test builds the same app with `build`.
Each task has a coroutine function for the asyncio pool, and a `run` for the other pools that waits for that function.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import celery
from celery import current_task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from umbel.workers.transport.channel import use_transport

POOLS = {"prefork": "prefork", "threads": "threads", "asyncio": "umbel.workers.pool:AsyncPool"}


class Colour(Exception):
    """The exception of failing tasks."""


class EachPool(celery.Task):
    """A task for all pools."""

    coroutine_function: Callable[..., Awaitable[Any]]

    async def run_async(self, *args: Any, **kwargs: Any) -> Any:
        return await self.coroutine_function(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return asyncio.run(self.run_async(*args, **kwargs))


class Watched(EachPool):
    """Records every Celery hook, in a separate file for each attempt."""

    def note(self, task_id: str, *what: Any) -> None:
        note(f"{task_id}-{self.request.retries}", *what)

    def before_start(self, task_id: str, *_: Any) -> None:
        self.note(task_id, "before_start")

    def on_success(self, result: Any, task_id: str, *_: Any) -> None:
        self.note(task_id, "on_success", result)

    def on_failure(self, error: Any, task_id: str, *_: Any) -> None:
        self.note(task_id, "on_failure", type(error).__name__)

    def on_retry(self, error: Any, task_id: str, *_: Any) -> None:
        self.note(task_id, "on_retry", type(error).__name__)

    def after_return(self, state: str, result: Any, task_id: str, *_: Any) -> None:
        self.note(task_id, "after_return", state)


def folder() -> Path:
    return Path(os.environ["POOL_APP_FOLDER"])


def note(name: str, *what: Any) -> None:
    """Append a line to the file of this name."""
    descriptor = os.open(folder() / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (" ".join(map(str, what)) + "\n").encode())
    os.close(descriptor)


async def until_open(name: str) -> None:
    note(name, "start")
    try:
        while not (folder() / f"open-{name}").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(name, "cancelled")
        raise
    note(name, "end")


async def add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


async def total(numbers: list[int]) -> int:
    return sum(numbers)


async def fail(text: str) -> None:
    await asyncio.sleep(0)
    raise Colour(text)


async def watched(how: str) -> str:
    task = current_task._get_current_object()
    await asyncio.sleep(0)
    task.note(task.request.id, "run")
    if how == "retry" and not task.request.retries:
        raise task.retry(exc=Colour("once more"), countdown=0)
    errors = {"fail": Colour("grün"), "ignore": Ignore(), "reject": Reject("no", requeue=False)}
    if how in errors:
        raise errors[how]
    return how


async def who(pause: float) -> list[Any]:
    """Return the id of the current request, read before and after other tasks ran, in a child task, and in a thread."""

    async def child() -> Any:
        await asyncio.sleep(pause)
        return current_task.request.id

    found = [current_task.request.id, await asyncio.create_task(child())]
    if json.loads(os.environ["POOL_APP"])["pool"] == "asyncio":
        found.append(await asyncio.to_thread(lambda: current_task.request.id))
    await asyncio.sleep(pause)
    return [*found, current_task.request.id]


async def outlive(name: str) -> str:
    """Catch the soft time limit inside a TaskGroup, and continue."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(until_open(name))
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return "outlived"
    return "too late"


async def block(name: str) -> None:
    """Block the event loop."""
    note(name, "start")
    deadline = time.monotonic() + 20
    while not (folder() / f"open-{name}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    note(name, "end")


#: An exception shared by several tasks, like that of a connection they share.
BROKEN = Colour("shared")


async def share(name: str) -> str:
    """Raise the shared exception; with a name, survive it."""
    try:
        raise BROKEN
    except Colour:
        if not name:
            raise
        await until_open(name)
    return "outlived"


async def exit_at_once(how: str) -> None:
    if how == "child":
        await asyncio.create_task(exit_at_once(""))
    if how == "cancelled":
        raise asyncio.CancelledError
    raise SystemExit(7)


async def tried(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise Colour("not yet")
    return int(self.request.retries)


def spin(name: str) -> str:
    """A plain function that never blocks in C."""
    note(name, "start")
    try:
        while not (folder() / f"open-{name}").exists():
            sum(range(1000))
    except SoftTimeLimitExceeded:
        return "outlived"
    finally:
        note(name, "left")
    return "too late"


def plain(x: int, y: int) -> int:
    return x + y


def plain_exit() -> None:
    raise SystemExit(7)


def build(pool: str, broker: str, results: str, settings: dict[str, Any]) -> celery.Celery:
    """Return the app as a client and a worker of one pool see it."""
    app = celery.Celery("support.programs.pool_app", broker=broker, backend=results, set_as_current=False)
    app.conf.update(
        {
            "worker_pool": POOLS[pool],
            "worker_concurrency": {"prefork": 2, "threads": 20, "asyncio": 1000}[pool],
            "worker_prefetch_multiplier": 1,
            "task_acks_late": True,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            "broker_connection_retry_on_startup": True,
            "worker_asyncio_lag_seconds": 0.2,
            "redis_socket_connect_timeout": 5,
            **settings,
        }
    )
    use_transport(app)
    for function in (add, total, fail, who, until_open, outlive, block, share, exit_at_once):
        register(app, EachPool, function)
    register(app, Watched, watched, track_started=True, max_retries=3)
    for function in (spin, plain, plain_exit):
        app.task(name=function.__name__)(function)
    # As users write it, for the asyncio pool alone.
    retries = {"autoretry_for": (Colour,), "retry_kwargs": {"countdown": 0, "max_retries": 2}}
    app.task(name="tried", bind=True, **retries)(tried)
    return app


def register(app: celery.Celery, base: type[EachPool], function: Callable[..., Awaitable[Any]], **options: Any) -> None:
    attributes = {"name": function.__name__, "coroutine_function": staticmethod(function), **options}
    app.register_task(type(function.__name__, (base,), attributes)())


def note_signals() -> None:
    """Record Celery's signals about the task `watched`."""

    def listen(signal: Any, name: str, *fields: str) -> None:
        def receive(sender: Any = None, **about: Any) -> None:
            if sender.name == "watched":
                uuid = about["task_id"] if "task_id" in about else getattr(about.get("request"), "id", None)
                sender.note(uuid or sender.request.id, name, *(about[field] for field in fields))

        signal.connect(receive, weak=False)

    listen(signals.task_prerun, "task_prerun")
    listen(signals.task_postrun, "task_postrun", "state")
    listen(signals.task_success, "task_success", "result")
    listen(signals.task_failure, "task_failure")
    listen(signals.task_retry, "task_retry")


if "POOL_APP" in os.environ:
    app = build(**json.loads(os.environ["POOL_APP"]))
    note_signals()
