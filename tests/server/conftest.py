"""A server's app on the session's deployment, and real server processes on one Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from support.http.flows import make_server
from umbel.server import WorkflowServer

Ask = Callable[..., httpx.AsyncClient]


@pytest.fixture(autouse=True)
def default_runtime(runtime: Any) -> None:
    """Make the deployment the default runtime of every test here."""


@pytest.fixture
async def asking(runtime: Any) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """Creates clients of servers with the given options, without sockets in between."""
    made: list[tuple[WorkflowServer, httpx.AsyncClient]] = []

    def ask(server: WorkflowServer | None = None, **options: Any) -> httpx.AsyncClient:
        server = make_server(runtime, **options) if server is None else server
        client = httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost", timeout=30)
        made.append((server, client))
        return client

    yield ask
    for server, client in made:
        await client.aclose()
        await server.stop()


@pytest.fixture
def client(asking: Callable[..., httpx.AsyncClient]) -> httpx.AsyncClient:
    """A client of a server with default options."""
    return asking()
