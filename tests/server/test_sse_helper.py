"""`sse_events`: a run's events in the streaming response of a user's own endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route

import umbel
from support.http.flows import Asked, Greet, Interview, make_server
from umbel.server import sse_events


async def events(request: Request) -> StreamingResponse:
    """An endpoint as users write it."""
    after = int(request.headers.get("last-event-id", -1))
    handler = umbel.attach(request.path_params["run_id"])
    return StreamingResponse(sse_events(handler, after_sequence=after), media_type="text/event-stream")


@pytest.fixture
async def http(runtime: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an app with the endpoint and a mounted server."""
    server = make_server(runtime)
    app = Starlette(routes=[Route("/mine/{run_id}", events), Mount("/flows", server.app)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client
    await server.stop()


async def test_a_custom_endpoint_sends_the_same_bytes_as_the_server(http: httpx.AsyncClient) -> None:
    handler = Greet().run(name="me")
    await handler

    mine = await http.get(f"/mine/{handler.run_id}")
    servers = await http.get(f"/flows/events/{handler.run_id}?after_sequence=-1")

    assert mine.content == servers.content
    assert mine.text.startswith('id: 1\ndata: {"value":{"done":1}')
    resumed = await http.get(f"/mine/{handler.run_id}", headers={"Last-Event-ID": "2"})
    assert resumed.text.startswith('id: 4\ndata: {"value":{"result"')


async def test_a_mounted_server_works_below_its_path(http: httpx.AsyncClient) -> None:
    answer = await http.post("/flows/workflows/greet/run", json={})

    assert answer.json()["status"] == "completed"
    assert (await http.get("/flows/health")).json() == {"status": "healthy"}


async def test_the_helper_filters_and_beats() -> None:
    handler = Interview(timeout=None).run()
    seen = []
    async for frame in sse_events(handler, event_types=["InputRequiredEvent"], heartbeat_seconds=0.05):
        seen.append(frame)
        if frame == ": heartbeat\n\n" and len(seen) > 1:
            break
    await handler.cancel_run()

    assert [frame for frame in seen if Asked.__name__ in frame]
    assert ": heartbeat\n\n" in seen
