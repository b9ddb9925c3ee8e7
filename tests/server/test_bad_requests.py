"""For any request, the response says what is wrong with it; it is never an internal server error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.http.flows import make_server
from umbel import Settings
from umbel.orchestration.model.tagged_json import MAX_DEPTH
from umbel.server.http.parsing import MAX_CONTAINERS, MAX_KEYS
from umbel.tasks.client.runtime import Runtime

BODIES: list[tuple[bytes, str]] = [
    (b"", "Invalid JSON body"),
    (b"{", "Invalid JSON body"),
    (b"\xff\xfe{}", "Invalid JSON body"),
    (b"[]", "expected an object, got an array"),
    (b'"x"', "expected an object, got a string"),
    (b"1", "expected an object, got a number"),
    (b"null", "expected an object, got null"),
    (b'{"start_event": NaN}', "NaN is not valid JSON"),
    (b'{"start_event": {"name": Infinity}}', "Infinity is not valid JSON"),
    (b'{"start_event": {"name": "\\ud800"}}', "'name'"),
    (b'{"start_event": {"x": "\\ud800"}}', "surrogate"),
    (b'{"start_event": {"name": 5}}', "name: Input should be a valid string"),
    (b'{"start_event": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    (b'{"start_event": {"x": ' + b"[" * 300 + b"]" * 300 + b"}}", "levels"),
    (b'{"start_event": {"x": ' + b"9" * 5000 + b"}}", ""),
    (b'{"handler_id": 5}', "'handler_id' must be a string"),
    (b'{"handler_id": "a/b"}', "cannot be a handler id"),
    (b'{"handler_id": "a\\nb"}', "cannot be a handler id"),
    (b'{"handler_id": ".."}', "cannot be a handler id"),
    (b'{"handler_id": "\\ud800"}', "cannot be a handler id"),
    (b'{"handler_id": "' + b"x" * 129 + b'"}', "cannot be a handler id"),
    (b'{"context": {"version": 2}}', "Context API is disabled"),
    (b'{"kwargs": 5}', "Must be a json object"),
    (b'{"start_event": {"type": "' + b"x" * 9000 + b'", "value": {}}}', "Invalid event type: xxx"),
    (b'{"start_event": {"value": "' + b"x" * 9000 + b'"}}', "Must have a type or a qualified name"),
]


@pytest.mark.parametrize(("body", "says"), BODIES, ids=[str(number) for number in range(len(BODIES))])
async def test_a_run_request_that_does_not_fit_is_a_400_that_says_why(
    client: httpx.AsyncClient, body: bytes, says: str
) -> None:
    for path in ("run", "run-nowait"):
        answer = await client.post(f"/workflows/greet/{path}", content=body)

        assert answer.status_code == 400, answer.text
        assert list(answer.json()) == ["detail"]
        assert says in answer.json()["detail"]
        assert len(answer.content) < 5_000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["type", "value", "data", "qualified_name", "__is_pydantic", "_data", "name", "types", "result", "event", "step"]
)
OBJECTS = st.dictionaries(NAMES, ANYTHING | st.sampled_from(["Greeting", "StopEvent", "umbel.events.StopEvent", "{}"]))
BODY = st.fixed_dictionaries(
    {},
    optional={
        "start_event": ANYTHING | OBJECTS,
        "kwargs": ANYTHING | OBJECTS,
        "handler_id": ANYTHING,
        "context": ANYTHING | OBJECTS,
        "event": ANYTHING | OBJECTS,
        "step": ANYTHING,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODY, raw=st.binary(max_size=30), query=st.text(max_size=20))
def test_no_body_makes_the_server_fail(
    asking: Callable[..., httpx.AsyncClient], body: Any, raw: bytes, query: str
) -> None:
    async def ask() -> None:
        http = asking(accept_context_api=True)
        for content in (json.dumps(body).encode(), raw):
            for path in ("/workflows/greet/run-nowait", "/events/nosuch"):
                answer = await http.post(path, content=content)
                assert answer.status_code in (200, 400, 404, 409), (path, answer.text)
        for path in ("/handlers", "/events/nosuch", "/handlers/nosuch"):
            params = {"status": query, "limit": query, "after_sequence": query, "workflow_name": query}
            answer = await http.get(path, params=params)
            assert answer.status_code in (200, 400, 404), (path, answer.text)

    asyncio.run(ask())


@pytest.mark.parametrize("handler_id", ["x" * 500, "%00", "%ff%fe", "..%2f..", "a%2Fb", "~FF.x", "{07}", "*", "h:h"])
async def test_strange_handler_ids_are_not_found(client: httpx.AsyncClient, handler_id: str) -> None:
    for method, path in (
        ("GET", "/handlers/{}"),
        ("GET", "/results/{}"),
        ("GET", "/events/{}"),
        ("POST", "/handlers/{}/cancel"),
    ):
        answer = await client.request(method, path.format(handler_id))
        assert answer.status_code in (400, 404), (path, answer.text)
        assert answer.json()["detail"]


async def test_redis_being_away_is_a_503_that_names_no_password() -> None:
    runtime = Runtime(Settings(redis_url="redis://:hunter2@127.0.0.1:1/0"))
    runtime.store.patience_seconds = 0.05
    server = make_server(runtime)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost") as http:
        answer = await http.get("/handlers")
    runtime.close()

    assert answer.status_code == 503
    assert "did not answer" in answer.json()["detail"]
    assert "hunter2" not in answer.text


async def test_what_a_run_may_hold_can_be_shown_however_deep_it_is(client: httpx.AsyncClient) -> None:
    answer = await client.post("/workflows/deep/run", json={"start_event": {"levels": MAX_DEPTH - 1}})

    assert answer.status_code == 200, answer.text
    handler_id = answer.json()["handler_id"]
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    for path in ("/handlers/{}", "/results/{}", "/events/{}?after_sequence=-1", "/handlers"):
        found = await client.get(path.format(handler_id))
        assert found.status_code == 200, (path, found.text)
        assert nested in found.text, path


async def test_a_list_has_a_largest_page(client: httpx.AsyncClient) -> None:
    for n in range(3):
        assert (await client.post("/workflows/greet/run", json={"handler_id": f"paged{n}"})).status_code == 200

    for limit in ("1001", "999999999"):
        answer = await client.get("/handlers", params={"limit": limit})
        assert answer.status_code == 400
        assert "at most 1,000" in answer.json()["detail"]
    first = await client.get("/handlers", params={"limit": "2", "workflow_name": "greet"})
    second = await client.get(first.links["next"]["url"])
    seen = [each["handler_id"] for each in [*first.json()["handlers"], *second.json()["handlers"]]]
    assert len(set(seen)) == len(seen) == 4
    assert seen[:3] == ["paged2", "paged1", "paged0"]
    assert (await client.get("/handlers", params={"cursor": "x"})).status_code == 400


@pytest.mark.parametrize(
    "event",
    [
        {"type": "\ud800", "value": {}},
        {"qualified_name": "\udfff", "value": {}},
        {"type": "Answer", "value": {"text": "\ud800"}},
        {"type": "\ud800" * 500, "qualified_name": "x\ud800", "value": {"\ud800": 1}},
    ],
)
async def test_half_a_surrogate_pair_is_refused_wherever_it_is(client: httpx.AsyncClient, event: Any) -> None:
    started = await client.post("/workflows/interview/run-nowait", json={})
    handler_id = started.json()["handler_id"]
    requests = [
        (f"/events/{handler_id}", {"event": event}),
        (f"/events/{handler_id}", {"event": {"type": "Answer", "value": {"text": "x"}}, "step": "\ud800"}),
        (f"/console/runs/{handler_id}/send", event),
        ("/workflows/interview/run", {"start_event": event}),
        ("/workflows/interview/run", {"\ud800": "\ud800", "handler_id": "\ud800"}),
    ]
    for path, body in requests:
        answer = await client.post(path, content=json.dumps(body).encode())
        assert answer.status_code == 400, (path, answer.text)
        assert answer.json()["detail"]
    await client.post(f"/handlers/{handler_id}/cancel")


async def test_a_request_with_two_host_headers_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health", headers=[("Host", "localhost"), ("Host", "evil.example")])

    assert answer.status_code == 400
    assert "several Host headers" in answer.json()["detail"]


@pytest.mark.parametrize(
    "start_event", ['{"x": [%s]}', '{"_data": {"x": [%s]}}', '{"value": {"x": [%s]}, "type": "Greeting"}']
)
async def test_a_body_with_too_many_keys_is_refused_before_events_are_made_of_it(
    client: httpx.AsyncClient, start_event: str
) -> None:
    many = ",".join(['{"a":1,"b":2,"c":3}'] * (MAX_KEYS // 3 + 1))
    for body in (f'{{"start_event": {start_event % many}}}', f'{{"context": [{many}], "handler_id": "x"}}'):
        answer = await client.post("/workflows/greet/run", content=body.encode())
        assert answer.status_code == 400
        assert "more than 200,000 keys" in answer.json()["detail"]


async def test_a_body_with_too_many_lists_is_refused_but_not_one_with_a_long_text(client: httpx.AsyncClient) -> None:
    lists = b'{"start_event": {"x": [' + b"[]," * MAX_CONTAINERS + b"[]]}}"
    answer = await client.post("/workflows/greet/run", content=lists)
    assert (answer.status_code, "more than 1,000,000 lists" in answer.json()["detail"]) == (400, True)

    text = json.dumps({"start_event": {"name": ":" * (MAX_KEYS + 1) + "[" * (MAX_CONTAINERS + 1)}}).encode()
    assert (await client.post("/workflows/greet/run", content=text)).status_code == 200


async def test_a_body_that_is_cut_off_is_no_error_of_the_server(runtime: Any, caplog: pytest.LogCaptureFixture) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    path = "/workflows/greet/run"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http", "client": None}
    await make_server(runtime).app(scope, receive, send)

    assert caplog.records == []
    assert sent[0]["status"] == 499
