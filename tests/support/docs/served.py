"""Processes started as a supervisor starts them: with a command and an environment; they end with the test."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from support.eventually import eventually
from umbel.workers.embedded.supervisor import Supervisor

#: The entry point in the virtual environment of the tests, in place of a container's `umbel`.
UMBEL = str(Path(sys.executable).with_name("umbel"))


class Served:
    """One process and its output, for a `with` block."""

    def __init__(
        self, supervisor: Supervisor, folder: Path, name: str, command: list[str], env: dict[str, str]
    ) -> None:
        self.name, self._log, self._supervisor = name, folder / f"{name}.log", supervisor
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("UMBEL_", "FLOWER_"))}
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.process = supervisor.spawn(
                command,
                cwd=folder,
                env=clean | {"PYTHONUNBUFFERED": "1"} | env,
                output=descriptor,
                grace_seconds=2,
            )
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._supervisor.forget(self.process.pid)
        print(f"--- {self.name}, exit code {self.process.returncode}\n{self.log()[-6000:]}")

    def log(self) -> str:
        """Return its output so far."""
        return self._log.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has printed this text."""

        def said() -> bool:
            assert text in self.log() or self.process.poll() is None, f"{self.name} has ended: {self.log()}"
            return text in self.log()

        eventually(said, f"{self.name} says {text!r}")


class FlowerApi:
    """A client of the Flower HTTP API."""

    def __init__(self, port: int, login: str | None) -> None:
        self.port, self.login = port, login

    def text(self, path: str) -> str:
        """Return the response body.

        Raises:
            OSError: Flower does not respond, or responds with an error.
        """
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if self.login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(self.login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()

    def json(self, path: str) -> Any:
        """Return the response body, parsed."""
        return json.loads(self.text(path))

    def status(self, path: str) -> int:
        """Return the status code of the response."""
        try:
            self.text(path)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    def wait_for_worker(self) -> None:
        """Wait until Flower receives task events of a worker: it never shows events it has not received."""

        def hears() -> bool:
            with suppress(OSError):
                return "flower_worker_online{" in self.text("/metrics")
            return False

        eventually(hears, "Flower hears a worker")
