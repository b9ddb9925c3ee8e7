"""One pool under test: its broker, files and workers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery
import pytest

from support import TESTS
from support.eventually import eventually
from support.processes.transport import Server, Worker
from support.programs import pool_app

ALL = ("prefork", "threads", "asyncio")
CAN_END_TASKS = ("prefork", "asyncio")


@dataclass
class PoolUnderTest:
    """The broker, files and worker of one pool."""

    pool: str
    folder: Path
    server: Server
    database: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        url = self.server.url.rpartition("/")[0]
        self.about = {"pool": self.pool, "broker": f"{url}/{self.database}", "results": f"{url}/{self.database}"}
        self.app = pool_app.build(**self.about, settings=self.settings)

    def start(self, name: str) -> Worker:
        log = self.folder / f"{name}.log"
        environment = {
            **os.environ,
            "POOL_APP": json.dumps({**self.about, "settings": self.settings}),
            "POOL_APP_FOLDER": str(self.folder),
        }
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "support.programs.pool_app",
            "worker",
            "-l",
            "info",
            "-n",
            f"{name}@test",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-E", "--without-mingle", "--without-gossip"],
                cwd=TESTS,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Worker(process, log)

    def send(self, task: str, *args: Any, **options: Any) -> celery.result.AsyncResult:
        return self.app.tasks[task].apply_async(args, **options)

    def signature(self, task: str, *args: Any) -> Any:
        return self.app.tasks[task].s(*args)

    def open(self, name: str) -> None:
        (self.folder / f"open-{name}").touch()

    def notes(self, name: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_text().splitlines()
        return []

    def await_notes(self, name: str, *lines: str) -> None:
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.notes(name) == list(lines), "the notes are there", 10)
        assert self.notes(name) == list(lines)

    def consumers(self) -> set[int]:
        """Return the ids of the connections that wait for messages."""
        with self.server.client as client:
            found = client.client_list()
        return {int(one["id"]) for one in found if one["cmd"] == "brpop" and one["db"] == str(self.database)}

    def begun(self) -> int:
        """Return how many tasks the worker's main process has seen begin; in prefork they begin a moment earlier."""
        answers = self.app.control.inspect(limit=1, timeout=10).active() or {}
        return sum(task["time_start"] is not None for tasks in answers.values() for task in tasks)

    def queued(self) -> int:
        return int(self.ask("LLEN", "celery"))

    def ask(self, *command: Any) -> Any:
        with self.server.client as client:
            client.select(self.database)
            return client.execute_command(*command)

    def await_all_acknowledged(self) -> None:
        eventually(lambda: not self.ask("EXISTS", "unacked"), "nothing is un-acked")

    def close(self) -> None:
        backend = self.app.backend
        backend.result_consumer.stop()
        backend.result_consumer._pubsub = None  # garbage collection of results would still unsubscribe
        backend.client.connection_pool.disconnect()
        self.app.close()


def ready(worker: Worker) -> Worker:
    def is_ready() -> bool:
        assert worker.is_alive(), worker.log.read_text()
        return worker.says(" ready.") > 0

    eventually(is_ready, "the worker is ready")
    return worker


def end(worker: Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def of(*pools: str, fixture: str = "place") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(fixture, pools, indirect=True)


def unique() -> str:
    return secrets.token_hex(4)
