"""What tests of the console share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from umbel.server import WorkflowServer

#: What makes a Chromium run anywhere and ask nobody anything.
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Site:
    """A server under test."""

    url: str
    server: WorkflowServer

    def start(self, workflow: str, **fields: Any) -> str:
        """Start a run and give its id."""
        answer = httpx.post(f"{self.url}workflows/{workflow}/run-nowait", json={"start_event": fields}, timeout=20)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["run_id"])

    def get(self, path: str, **query: Any) -> httpx.Response:
        """Ask for something."""
        return httpx.get(self.url + path, params=query, timeout=20)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """Do something."""
        return httpx.post(self.url + path, json=body or {}, timeout=20)

    def await_status(self, run_id: str, status: str) -> dict[str, Any]:
        """The run as soon as it stands like this."""

        def reached() -> dict[str, Any] | None:
            found: dict[str, Any] = self.get(f"console/runs/{run_id}").json()
            return found if found["status"] == status else None

        shown: dict[str, Any] = eventually(reached, f"run {run_id} is {status}")
        return shown


#: Puts a run into Redis as the scripts leave it, and gives its id.
Keep = Callable[..., str]


def eventually(condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
    """Look again and again until the condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.02)
    return found
