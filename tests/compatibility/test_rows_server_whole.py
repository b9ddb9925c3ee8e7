"""Rows 96, 98 and 99: what a server reports about its workflows, who may call it, and restarts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from llama_agents.client import WorkflowClient
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from support.http.rows import Ans, Greet, Interview, Named, make_server
from umbel import StopEvent
from umbel.representation import get_workflow_representation
from umbel.server import WorkflowServer


def asking(server: WorkflowServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost", timeout=30)


@pytest.fixture
async def http(deployment: Any) -> AsyncIterator[httpx.AsyncClient]:
    server = make_server(deployment)
    async with asking(server) as client:
        yield client
    await server.stop()


# -- 96 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(96)
async def test_schemas_and_events(http: httpx.AsyncClient) -> None:
    client = WorkflowClient(httpx_client=http)

    schema = await client.get_workflow_schema("greet")
    events = await client.get_workflow_events_schema("interview")

    assert (schema.start, schema.stop) == (Named.model_json_schema(), StopEvent.model_json_schema())
    assert events.events == [cls.model_json_schema() for cls in [*Interview().events, Ans]]
    answer = await http.get("/workflows/nosuch/events")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Workflow 'nosuch' not found"})
    answer = await http.get("/workflows/nosuch/schema")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Workflow not found"})


@pytest.mark.row(96)
async def test_the_representation_is_that_of_the_library(http: httpx.AsyncClient) -> None:
    graph = (await http.get("/workflows/greet/representation")).json()["graph"]

    assert graph == get_workflow_representation(Greet()).model_dump(mode="json")
    assert (await WorkflowClient(httpx_client=http).get_workflow_graph("greet")).graph.name == "Greet"
    assert (await http.get("/workflows/nosuch/representation")).status_code == 404


@pytest.mark.row(96)
async def test_the_openapi_document_has_every_route(deployment: Any, http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()

    assert document == make_server(deployment).openapi_schema()
    assert (document["openapi"], document["info"]["title"]) == ("3.0.0", "Workflows API")
    assert {"EventEnvelopeWithMetadata", "Handler", "HandlersList"} <= set(document["components"]["schemas"])
    operations = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert {
        ("/health", "get"),
        ("/workflows", "get"),
        ("/workflows/{name}/run", "post"),
        ("/workflows/{name}/run-nowait", "post"),
        ("/workflows/{name}/schema", "get"),
        ("/workflows/{name}/events", "get"),
        ("/workflows/{name}/representation", "get"),
        ("/handlers", "get"),
        ("/handlers/{handler_id}", "get"),
        ("/handlers/{handler_id}/cancel", "post"),
        ("/results/{handler_id}", "get"),
        ("/events/{handler_id}", "get"),
        ("/events/{handler_id}", "post"),
    } <= operations


# -- 98 ----------------------------------------------------------------------------------------------------------------

PREFLIGHT = {
    "Origin": "https://app.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}


@pytest.mark.row(98)
async def test_no_other_site_may_call_by_default(http: httpx.AsyncClient) -> None:
    preflight = await http.options("/workflows/greet/run", headers=PREFLIGHT)
    call = await http.post("/workflows/greet/run", json={}, headers={"Origin": "https://app.example"})
    read = await http.get("/workflows", headers={"Origin": "https://app.example"})

    assert not preflight.is_success
    assert call.status_code == 403
    for answer in (preflight, call, read):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.row(98)
async def test_sites_that_are_named_may(deployment: Any) -> None:
    async with asking(make_server(deployment, allowed_origins=["https://app.example"], token="t")) as http:
        preflight = await http.options("/workflows/greet/run", headers=PREFLIGHT)
        own = {"Origin": "https://app.example"}
        refused = await http.post("/workflows/greet/run", json={}, headers=own)
        call = await http.post("/workflows/greet/run", json={}, headers=own | {"Authorization": "Bearer t"})
        other = await http.options("/workflows/greet/run", headers=PREFLIGHT | {"Origin": "https://evil.example"})

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert (refused.status_code, call.status_code) == (401, 200)
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in other.headers


class Stamped:
    """Middleware as users write it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", b"here")]
            await send(message)

        await self.app(scope, receive, stamped)


@pytest.mark.row(98)
async def test_custom_middleware_and_exception_handlers_work(deployment: Any) -> None:
    async def not_found(_: Request, error: Exception) -> Response:
        return PlainTextResponse("gone fishing", 404)

    server = make_server(deployment, middleware=[Middleware(Stamped)], exception_handlers={404: not_found})
    async with asking(server) as http:
        assert (await http.get("/workflows")).headers["x-stamp"] == "here"
        assert (await http.get("/nowhere")).text == "gone fishing"
        # The guard still comes first.
        assert "x-stamp" not in (await http.get("/workflows", headers={"Host": "evil.example"})).headers


# -- 99 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(99)
async def test_runs_outlive_the_server_that_started_them(deployment: Any) -> None:
    """Killed processes are tested in tests/processes; here a second server continues the runs of the first one."""
    first = make_server(deployment)
    async with asking(first) as http:
        handler_id = (await http.post("/workflows/interview/run-nowait", json={"handler_id": "row-99"})).json()[
            "handler_id"
        ]
    await first.stop()

    second = make_server(deployment)
    async with asking(second) as http:
        client = WorkflowClient(httpx_client=http)
        await client.send_event(handler_id, Ans(text="still here"))
        done = await client.wait_for_handler(handler_id, poll_interval=0.02, backoff="constant")
        events = [event.type async for event in client.get_workflow_events(handler_id)]
    await second.stop()

    assert done.result is not None
    assert done.result.value == {"result": "still here"}
    assert events[-1] == "StopEvent"


# -- 97 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(97)
async def test_the_page_loads_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    """The page's behavior is tested in a browser, in tests/console."""
    page = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")

    looked_at, todo = {""}, re.findall(r'(?:src|href)="([^"]+)"', page.text)
    while todo:
        path = todo.pop()
        if path.startswith("./"):
            path = path.replace("./", "/console/page/", 1)
        assert re.match(r"/console/|console/|#", path), path
        if path not in looked_at and not path.startswith("#"):
            looked_at.add(path)
            found = await http.get(path)
            assert found.status_code == 200, path
            todo += re.findall(r'^(?:import|export|\}) ?[^"\n]*from "([^"]+)";$', found.text, re.MULTILINE)
            assert re.findall(r"https?://(?!www\.w3\.org/)[^\s\"'`]+", found.text) == [], path
    assert len(looked_at) > 10
