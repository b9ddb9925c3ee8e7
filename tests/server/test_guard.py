"""No request bypasses the guard: tokens, hosts, origins, sizes, and the hook that is called for every run."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.routing import Route
from starlette.types import Message

from support.http.flows import make_server
from umbel.orchestration.model.errors import ConfigurationError
from umbel.server import Principal, WorkflowServer
from umbel.server.console.page_files import page_paths

Asking = Callable[..., httpx.AsyncClient]


def every_route(server: WorkflowServer) -> list[tuple[str, str]]:
    """Return (method, path) of every route, with values in place of path parameters."""
    found = []
    for route in server.app.routes:
        assert isinstance(route, Route), f"{route!r} is no Route: let this test know how to ask it"
        path = route.path
        for name in route.param_convertors:
            path = path.replace(f"{{{name}:path}}", "x").replace(f"{{{name}:int}}", "1").replace(f"{{{name}}}", "x")
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


#: What may be read without a token; the page's files are listed one by one.
PAGE = {(method, path) for method in ("GET", "HEAD") for path in page_paths()}


async def test_all_that_can_be_read_without_a_token_is_the_page(runtime: Any, asking: Asking) -> None:
    server = make_server(runtime, token="s3cret")
    http = asking(server)

    opened = {each for each in every_route(server) if (await asked(http, *each)).status_code != 401}

    assert opened == {("GET", "/"), ("HEAD", "/")}
    for _, path in PAGE:
        assert (await http.get(path)).status_code == 200
        assert (await http.post(path)).status_code == 401
    assert (await http.get("/console/page/nosuch.js")).status_code == 401


async def asked(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response:
    return await http.request(method, path, **({"json": {}} if method == "POST" else {}), **more)


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_every_route_wants_the_token(runtime: Any, asking: Asking) -> None:
    server = make_server(runtime, token="s3cret")
    # All but the page's own files, which hold no data: a browser must load them before a user can enter a token.
    routes = [(method, path) for method, path in every_route(server) if (method, path) not in PAGE]
    assert len(routes) > 30
    http = asking(server)

    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, {"Authorization": "s3cret"}):
        for method, path in [*routes, ("GET", "/nowhere"), ("PATCH", "/handlers"), ("OPTIONS", "/handlers")]:
            answer = await asked(http, method, path, headers=wrong)
            assert answer.status_code == 401, (method, path)
            assert answer.headers.get_list("www-authenticate") == ['Bearer realm="umbel"', 'Basic realm="umbel"']


@pytest.mark.parametrize(
    "authorization",
    ["Bearer s3cret", "bearer s3cret", "Basic " + base64.b64encode(b"anybody:s3cret").decode()],
)
async def test_the_token_opens(asking: Asking, authorization: str) -> None:
    http = asking(token="s3cret")

    assert (await http.get("/workflows", headers={"Authorization": authorization})).status_code == 200


@pytest.mark.parametrize(
    "authorization", ["Basic !!!", "Basic " + base64.b64encode(b"\xff\xfe").decode(), "Basic", "x"]
)
async def test_a_broken_header_is_no_token(asking: Asking, authorization: str) -> None:
    http = asking(token="s3cret")

    assert (await http.get("/workflows", headers={"Authorization": authorization})).status_code == 401


async def test_paths_that_are_named_public_need_no_token(asking: Asking) -> None:
    http = asking(token="s3cret", public_paths=["/health"])

    assert (await http.get("/health")).status_code == 200
    for path in ("/workflows", "/health/", "/healthy", "/HEALTH"):
        assert (await http.get(path)).status_code == 401, path


async def test_an_empty_token_is_refused() -> None:
    for token in ("", {}, {"ci": ""}):
        with pytest.raises(ConfigurationError, match="token is empty"):
            WorkflowServer(token=token)


async def test_websockets_pass_the_same_guard(runtime: Any) -> None:
    server = make_server(runtime, token="s3cret", public_paths=["/health"])
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/health", "headers": [(b"host", b"localhost")], "query_string": b""}
    await server.app(scope, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


async def test_the_guard_looks_at_the_path_and_not_at_what_a_header_makes_of_it(asking: Asking) -> None:
    http = asking(token="s3cret", public_paths=["/health"])

    answer = await http.get("/workflows", headers={"Host": "localhost/health?", "X-Original-URL": "/health"})

    assert answer.status_code == 401


# -- hosts and origins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:80", "app.localhost"])
async def test_without_a_token_this_machines_own_names_are_answered(asking: Asking, host: str) -> None:
    assert (await asking().get("/workflows", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "["])
async def test_without_a_token_no_other_name_is(asking: Asking, host: str) -> None:
    answer = await asking().get("/workflows", headers={"Host": host})

    assert answer.status_code == 421
    assert "allowed_hosts" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["testserver", "test"])
async def test_a_client_in_the_servers_own_process_may_call_it_as_it_likes(runtime: Any, host: str) -> None:
    transport = httpx.ASGITransport(app=make_server(runtime).app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
        assert (await http.get("/workflows")).status_code == 200
        assert (await http.get("/workflows", headers={"Host": "evil.example"})).status_code == 421
    async with httpx.AsyncClient(transport=transport, base_url="http://evil.example") as http:
        assert (await http.get("/workflows")).status_code == 421


async def test_hosts_may_be_named(asking: Asking) -> None:
    http = asking(allowed_hosts=["flows.example"], token="t")
    own = {"Authorization": "Bearer t"}

    assert (await http.get("/workflows", headers=own | {"Host": "flows.example:8080"})).status_code == 200
    assert (await http.get("/workflows", headers=own | {"Host": "other.example"})).status_code == 421
    assert (await asking(token="t").get("/workflows", headers=own | {"Host": "any.example"})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_a_foreign_page_can_start_nothing(asking: Asking, headers: dict[str, str], status: int) -> None:
    answer = await asking().post("/workflows/greet/run-nowait", json={}, headers=headers)

    assert answer.status_code == status


@pytest.mark.parametrize("origin", ["*", "app.example", "https://*.example"])
def test_origins_are_named_one_by_one(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        WorkflowServer(allowed_origins=[origin])


async def test_every_response_has_security_headers(asking: Asking) -> None:
    http = asking(token="t")

    for path, headers in (("/workflows", {"Authorization": "Bearer t"}), ("/workflows", {}), ("/nowhere", {})):
        answer = await http.get(path, headers=headers)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"


# -- where it listens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "flows.example"])
def test_a_server_that_others_can_reach_needs_a_token_or_a_hook(host: str) -> None:
    with pytest.raises(ConfigurationError, match="open to everyone"):
        WorkflowServer().uvicorn_config(host, 8000)

    assert WorkflowServer(token="t").uvicorn_config(host, 8000).host == host
    assert WorkflowServer(authorize=lambda *_: True).uvicorn_config(host, 8000).host == host


async def test_a_token_from_a_file_that_ends_with_a_line_break_is_the_token(asking: Asking) -> None:
    http = asking(token={"ops": " secret\n"})

    assert (await http.get("/workflows", headers={"Authorization": "Bearer secret"})).status_code == 200
    assert (await http.get("/workflows", headers={"Authorization": "Bearer other"})).status_code == 401
    for wrong in ("a\nb", "a\x00", " \n", ""):
        with pytest.raises(ConfigurationError, match="token"):
            WorkflowServer(token=wrong)


def test_a_token_that_everybody_knows_protects_no_server_that_others_can_reach() -> None:
    for token in ("umbel", {"ci": "umbel", "ops": "t"}):
        with pytest.raises(ConfigurationError, match="earlier examples contained"):
            WorkflowServer(token=token).uvicorn_config("0.0.0.0", 8000)

        assert WorkflowServer(token=token).uvicorn_config("127.0.0.1", 8000)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_alone_may_be_served_without(host: str) -> None:
    assert WorkflowServer().uvicorn_config(host, 8000).host == host


async def test_the_host_cannot_be_slipped_in_behind(runtime: Any) -> None:
    with pytest.raises(ConfigurationError, match="open to everyone"):
        await make_server(runtime).serve(uvicorn_config={"host": "0.0.0.0"})


# -- sizes -------------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_declared_too_large_is_refused_unread(runtime: Any) -> None:
    server = make_server(runtime, max_body_bytes=1000)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("it was read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/workflows/greet/run",
        "headers": [(b"host", b"localhost"), (b"content-length", b"1001")],
        "query_string": b"",
    }
    await server.app(scope, receive, send)

    assert sent[0]["status"] == 413


async def test_a_body_that_grows_too_large_is_refused_while_it_comes(asking: Asking) -> None:
    produced = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(1000):
            produced += 1
            yield b" " * 100

    answer = await asking(max_body_bytes=1000).post("/workflows/greet/run", content=endless())

    assert answer.status_code == 413
    assert "max_body_bytes" in answer.json()["detail"]


async def test_an_event_above_the_limit_of_the_deployment_is_a_413(asking: Asking, runtime: Any) -> None:
    large = "x" * (runtime.settings.payload_max_bytes + 1)

    answer = await asking(max_body_bytes=100 << 20).post(
        "/workflows/greet/run-nowait", json={"start_event": {"name": large}}
    )

    assert answer.status_code == 413
    assert "payload_max_bytes" in answer.json()["detail"]


# -- the hook ----------------------------------------------------------------------------------------------------------


async def test_no_route_answers_before_the_hook_was_asked(runtime: Any, asking: Asking) -> None:
    actions: set[str] = set()

    def deny(_: Principal, action: str, run_id: str | None) -> bool:
        actions.add(action)
        return False

    server = make_server(runtime, authorize=deny)
    http = asking(server)
    for method, path in every_route(server):
        answer = await asked(http, method, path)
        assert answer.status_code == 403, (method, path)

    assert {"health", "describe", "start", "list", "read", "stream", "send", "cancel"} <= actions


async def test_the_hook_gets_the_caller_and_the_operation(asking: Asking) -> None:
    seen: list[tuple[str, str, str | None]] = []

    async def authorize(principal: Principal, action: str, run_id: str | None) -> bool:
        seen.append((principal.name, action, run_id))
        return principal.name == "ops" or action not in ("start", "purge")

    http = asking(token={"ops": "a", "guest": "b"}, authorize=authorize)
    ops, guest = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}

    run = {"handler_id": "hooked"}
    assert (await http.post("/workflows/greet/run", json=run, headers=guest)).status_code == 403
    assert (await http.post("/workflows/greet/run", json=run, headers=ops)).status_code == 200
    assert (await http.get("/handlers/hooked", headers=guest)).status_code == 200
    assert (await http.post("/handlers/hooked/cancel?purge=true", headers=guest)).status_code == 403
    assert (await http.post("/handlers/hooked/cancel?purge=true", headers=ops)).status_code == 200
    assert seen == [
        ("guest", "start", None),
        ("ops", "start", None),
        ("ops", "start", "hooked"),
        ("guest", "read", "hooked"),
        ("guest", "cancel", "hooked"),
        ("guest", "purge", "hooked"),
        ("ops", "cancel", "hooked"),
        ("ops", "purge", "hooked"),
    ]


async def test_lists_show_what_may_be_read(asking: Asking) -> None:
    def own(principal: Principal, action: str, run_id: str | None) -> bool:
        return run_id is None or run_id.startswith(f"{principal.headers.get('x-user')}-")

    http = asking(authorize=own)
    for user in ("ann", "ben"):
        answer = await http.post("/workflows/greet/run", json={"handler_id": f"{user}-1"}, headers={"X-User": user})
        assert answer.status_code == 200
    anns = await http.get("/handlers", headers={"X-User": "ann"})

    assert [each["handler_id"] for each in anns.json()["handlers"]] == ["ann-1"]
    for path in ("/handlers/ben-1", "/results/ben-1", "/events/ben-1?after_sequence=-1"):
        assert (await http.get(path, headers={"X-User": "ann"})).status_code == 403
    answer = await http.post("/workflows/greet/run", json={"handler_id": "ben-1"}, headers={"X-User": "ann"})
    assert answer.status_code == 403


async def test_a_stream_ends_when_its_reader_may_no_longer_read(runtime: Any) -> None:
    allowed = True
    server = make_server(runtime, authorize=lambda *_: allowed, reauthorize_seconds=0.05)
    messages: asyncio.Queue[Message] = asyncio.Queue()
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        handler_id = (await http.post("/workflows/interview/run-nowait", json={})).json()["handler_id"]

    async def receive() -> Message:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/events/{handler_id}",
        "headers": [(b"host", b"localhost")],
        "query_string": b"after_sequence=-1",
    }
    reading = asyncio.create_task(server.app(scope, receive, messages.put))
    while b"Asked" not in (await messages.get()).get("body", b""):
        pass
    allowed = False
    await asyncio.wait_for(reading, 20)
    await server.stop()

    rest = [messages.get_nowait() for _ in range(messages.qsize())]
    assert all(message["more_body"] for message in rest)  # the connection was cut, not closed as at the run's end
    runtime.attach(handler_id).cancel()
