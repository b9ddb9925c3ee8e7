"""What tests of the console share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from support.eventually import eventually
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
