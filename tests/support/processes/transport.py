"""A Redis server and Celery workers for one test of the Redis transport, which can be killed and disconnected."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from support import TESTS
from support.eventually import eventually
from support.programs import transport_app
from umbel.workers.embedded.binary import find_server
from umbel.workers.embedded.configuration import free_port


@dataclass
class Server:
    """A Redis server that can be killed and restarted on the same port."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, single_connection_client=True)

    def start(self) -> None:
        persist = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command = [str(find_server()), "--port", str(self.port), "--dir", str(self.folder), *persist]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self.is_up, "the Redis server is up")

    def is_up(self) -> bool:
        with self.client as client, contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def die_under_subscribers_first(self) -> None:
        """Shut down so that a worker notices it on a connection other than the one it consumes from."""
        assert self.process is not None
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"CLIENT KILL TYPE pubsub\r\nSHUTDOWN NOSAVE\r\n")
            self.process.wait()

    def forget(self) -> None:
        """Lose all data, as a restart without persistence does."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def consumers(self) -> set[int]:
        """Return the ids of the connections that wait for messages."""
        with self.client as client:
            return {int(one["id"]) for one in client.client_list() if one["cmd"] == "brpop"}

    def ask(self, *command: Any) -> Any:
        with self.client as client:
            return client.execute_command(*command)


@dataclass
class Place:
    """The broker, files and workers of one test."""

    server: Server
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def worker(
        self,
        *arguments: str,
        kind: transport_app.Kind = "umbel",
        without: tuple[str, ...] = ("mingle", "gossip", "heartbeat"),
    ) -> Worker:
        """Start a worker and wait until it consumes."""
        name = f"w{len(self.workers)}"
        settings = {"broker": self.server.url, "kind": kind, "options": self.options}
        environment = {**os.environ, "TRANSPORT_APP": json.dumps(settings), "TRANSPORT_APP_NAME": name}
        command = [
            "-m",
            "celery",
            "-A",
            "support.programs.transport_app",
            "worker",
            "-l",
            "info",
            "-n",
            f"{name}@test",
            *arguments,
        ]
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command, *(f"--without-{part}" for part in without)],
                cwd=TESTS,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        eventually(lambda: worker.says(" ready."), f"worker {name} is ready")
        return worker

    def send(self, task: str, *names: str, kind: transport_app.Kind = "stock", **options: Any) -> None:
        app = transport_app.build(self.server.url, kind, self.options)
        with app.connection_for_write() as connection:
            for name in names:
                app.send_task(task, (str(self.folder), name), connection=connection, **options)

    def open(self, name: str) -> None:
        (self.folder / f"open-{name}").touch()

    def effects(self) -> list[str]:
        path = self.folder / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def await_effects(self, *lines: str) -> None:
        def are_there() -> bool:
            found = [line.partition(" by ")[0] for line in self.effects()]
            return all(line in found for line in lines)

        eventually(are_there, f"effects {lines}, of {self.effects()}")

    def start_holding(self, worker: Worker, *names: str) -> None:
        """Send tasks that hold, and wait until all of them run and the worker has registered that."""
        accepted = worker.says("Accepted hold")
        self.send("hold", *names)
        self.await_effects(*(f"start {name}" for name in names))
        eventually(lambda: worker.says("Accepted hold") == accepted + len(names), "the tasks are accepted")

    def await_all_acknowledged(self) -> None:
        prefix = self.options.get("global_keyprefix", "")

        def is_empty() -> bool:
            return not self.server.ask("EXISTS", prefix + "unacked", prefix + "unacked_index")

        eventually(is_empty, "nothing is un-acked")


@dataclass
class Worker:
    """A worker process and its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, text: str) -> int:
        return self.log.read_text(errors="replace").count(text)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def running_place(folder: Path) -> Iterator[Place]:
    """Yield a running server without workers; afterwards, everything is stopped."""
    data = folder / "redis"
    data.mkdir()
    server = Server(data)
    server.start()
    place = Place(server, folder)
    try:
        yield place
    finally:
        for worker in place.workers:
            worker.process.kill()
            worker.process.wait()
        server.kill()
