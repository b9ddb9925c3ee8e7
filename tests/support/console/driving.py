"""Helpers shared by the console tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from support.eventually import eventually
from umbel.server import WorkflowServer

#: Arguments that let Chromium run anywhere and without network requests of its own.
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
        """Start a run and return its id."""
        answer = httpx.post(f"{self.url}workflows/{workflow}/run-nowait", json={"start_event": fields}, timeout=20)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["run_id"])

    def get(self, path: str, **query: Any) -> httpx.Response:
        """Send a GET request."""
        return httpx.get(self.url + path, params=query, timeout=20)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """Send a POST request."""
        return httpx.post(self.url + path, json=body or {}, timeout=20)

    def await_status(self, run_id: str, status: str) -> dict[str, Any]:
        """Wait until the run has this status, and return it."""

        def reached() -> dict[str, Any] | None:
            found: dict[str, Any] = self.get(f"console/runs/{run_id}").json()
            return found if found["status"] == status else None

        shown: dict[str, Any] = eventually(reached, f"run {run_id} is {status}")
        return shown


#: Type of a function that writes a run into Redis as the scripts leave it, and returns its id.
Keep = Callable[..., str]
