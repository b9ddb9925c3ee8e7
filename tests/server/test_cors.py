"""Pages of an allowed origin may call every route."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

import umbel.server
from support.http.flows import make_server

ORIGIN = "https://app.example"
CODE = "".join(path.read_text() for path in Path(umbel.server.__file__).parent.rglob("*_routes.py"))
#: The headers that routes and their guard read.
HEADERS = {"authorization", "content-type", *re.findall(r'request\.headers\.get\("([\w-]+)"', CODE)}

Asking = Callable[..., httpx.AsyncClient]


@pytest.fixture
def server(runtime: Any) -> Any:
    return make_server(runtime, allowed_origins=[ORIGIN])


async def preflight(http: httpx.AsyncClient, origin: str, method: str, headers: set[str]) -> httpx.Response:
    """What a browser asks before it lets a page of the origin make such a request."""
    wanted = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": ", ".join(sorted(headers))}
    return await http.options("/sessions/x", headers={"Origin": origin} | wanted)


async def test_pages_of_an_allowed_origin_may_use_every_method_and_header_that_routes_use(
    asking: Asking, server: Any
) -> None:
    methods = {method for route in server.app.routes if isinstance(route, Route) for method in route.methods or ()}
    assert {"GET", "POST", "DELETE"} <= methods
    assert {"idempotency-key", "last-event-id"} <= HEADERS
    http = asking(server)

    for method in methods:
        answer = await preflight(http, ORIGIN, method, HEADERS)
        assert answer.status_code == 200, (method, answer.text)
        assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_pages_of_an_allowed_origin_may_read_where_the_next_page_is(asking: Asking, server: Any) -> None:
    answer = await asking(server).get("/handlers?limit=1", headers={"Origin": ORIGIN})

    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "link" in answer.headers["access-control-expose-headers"]


async def test_pages_of_other_origins_may_use_none(asking: Asking, server: Any) -> None:
    assert (await preflight(asking(server), "https://evil.example", "DELETE", set())).status_code == 400
