"""A process that owns an embedded server, and helpers to observe processes from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_mentioning(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and not is_gone(int(entry.name)):
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


@contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as connected:
        yield connected


OWNER = """
import json, sys
from pathlib import Path
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

folder, workers = sys.argv[1], json.loads(sys.argv[2])
with Supervisor() as supervisor:
    made = (EmbeddedRedis.in_folder(Path(folder), supervisor=supervisor) if folder
            else EmbeddedRedis.temporary(supervisor=supervisor))
    with made as server:
        started = [supervisor.spawn([*command, server.url], grace_seconds=grace) for command, grace in workers]
        print(json.dumps({"server": server.pid, "url": server.url, "folder": str(server.folder),
                          "supervisor": supervisor.pid, "workers": [worker.pid for worker in started]}), flush=True)
        sys.stdin.read()
        for worker in started:
            worker.terminate()
            worker.wait()
            supervisor.forget(worker.pid)
"""


class OwnerProcess:
    """A separate process that uses an embedded server until it leaves or is killed."""

    def __init__(self, folder: Path | None = None, workers: list[tuple[list[str], float]] | None = None) -> None:
        command = [sys.executable, "-c", OWNER, "" if folder is None else str(folder), json.dumps(workers or [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._facts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if not self._facts:
            assert self.process.stdout is not None
            self._facts = json.loads(self.process.stdout.readline())
        return self._facts[name]

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def owner(folder: Path | None = None, workers: list[tuple[list[str], float]] | None = None) -> Iterator[OwnerProcess]:
    started = OwnerProcess(folder, workers)
    try:
        yield started
    finally:
        started.kill()
