"""Rows 83 to 88: running workflows with the published client and with plain HTTP, over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from llama_agents.client import WorkflowClient

from support.http.calls import asked, run
from support.http.rows import Named, Valued, listening, make_server
from umbel import attach

KEYS = [
    "handler_id",
    "workflow_name",
    "run_id",
    "error",
    "result",
    "result_unreadable",
    "status",
    "started_at",
    "updated_at",
    "completed_at",
]


@pytest.fixture(scope="module")
def address(deployment: Any) -> Iterator[str]:
    with listening(make_server(deployment)) as found:
        yield found


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient(base_url=address, timeout=30, verify=False) as client:
        yield client


@pytest.fixture
def client(http: httpx.AsyncClient) -> WorkflowClient:
    """The published client."""
    return WorkflowClient(httpx_client=http)


# -- 83 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(83)
async def test_health_and_workflows(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    assert (await client.is_healthy()).status == "healthy"
    assert (await client.list_workflows()).workflows == [
        "greet",
        "typed",
        "double",
        "count",
        "interview",
        "open",
        "fails",
        "slow",
    ]
    assert (await http.get("/health")).json() == {"status": "healthy"}


@pytest.mark.row(83)
async def test_a_stopped_server_is_unhealthy(deployment: Any) -> None:
    server = make_server(deployment)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost") as http:
        assert (await http.get("/health")).status_code == 200
        await server.stop()
        answer = await http.get("/health")

    assert (answer.status_code, answer.json()) == (503, {"status": "unhealthy"})


# -- 84 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(84)
async def test_run_answers_with_the_result(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    data = await client.run_workflow("greet", start_event=Named(name="Q"))

    assert (data.status, data.workflow_name, data.error) == ("completed", "greet", None)
    assert data.result is not None
    assert data.result.value == {"result": {"hello": "Q"}}
    raw = await run(http, "typed", start_event={"name": "R"})
    assert list(raw) == KEYS
    assert raw["result"] == {
        "value": {"text": "hello R"},
        "qualified_name": "support.http.rows.Greeted",
        "type": "Greeted",
        "types": ["StopEvent"],
    }
    for key in ("started_at", "updated_at", "completed_at"):
        assert raw[key].endswith("+00:00")
        assert datetime.fromisoformat(raw[key]).utcoffset() is not None


@pytest.mark.parametrize(("name", "error"), [("fails", "boom"), ("slow", "Workflow timed out after 0.2s")])
@pytest.mark.row(84)
async def test_a_run_that_does_not_complete_is_a_500_with_the_handler(
    http: httpx.AsyncClient, name: str, error: str
) -> None:
    answer = await http.post(f"/workflows/{name}/run", json={})

    assert answer.status_code == 500
    data = answer.json()
    assert list(data) == KEYS
    assert (data["status"], data["error"], data["result"]) == ("failed", error, None)
    assert data["completed_at"] is not None


@pytest.mark.row(84)
async def test_an_empty_body_is_a_400_and_an_empty_object_is_fine(http: httpx.AsyncClient) -> None:
    for path in ("run", "run-nowait"):
        answer = await http.post(f"/workflows/greet/{path}")
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("Invalid JSON body: ")
        assert (await http.post(f"/workflows/greet/{path}", json={})).status_code == 200
        answer = await http.post(f"/workflows/nosuch/{path}", json={})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Workflow not found"})


@pytest.mark.row(84)
async def test_unknown_paths_and_methods_have_a_detail(http: httpx.AsyncClient) -> None:
    answer = await http.get("/nowhere/at/all")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    answer = await http.put("/workflows")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})


# -- 85 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(85)
async def test_run_nowait_answers_at_once(client: WorkflowClient) -> None:
    handler = await client.run_workflow_nowait("interview")

    assert (handler.status, handler.error, handler.result, handler.completed_at) == ("running", None, None, None)
    await client.cancel_handler(handler.handler_id)


@pytest.mark.row(85)
async def test_a_handler_that_runs_is_a_409(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    handler_id = await asked(client, handler_id="row-85")
    assert handler_id == "row-85"

    answer = await http.post("/workflows/interview/run-nowait", json={"handler_id": handler_id})

    assert (answer.status_code, answer.json()) == (409, {"detail": "Handler 'row-85' is already running"})
    await client.cancel_handler(handler_id)
    again = await client.run_workflow_nowait("interview", handler_id=handler_id)
    assert again.handler_id == handler_id
    await client.cancel_handler(handler_id)


@pytest.mark.parametrize("name", ["row-85-counter", "someone@example.com", "ünï·cødé", "a.b:c~d"])
@pytest.mark.row(85)
async def test_a_handlers_next_run_keeps_the_state(client: WorkflowClient, name: str) -> None:
    runs = [await client.run_workflow("count", handler_id=name) for _ in range(3)]

    assert [each.result.value["result"] for each in runs if each.result] == [1, 2, 3]
    assert {each.handler_id for each in runs} == {name}
    assert len({each.run_id for each in runs}) == 3


@pytest.mark.row(85)
async def test_a_handler_without_a_chosen_name_can_be_continued_too(client: WorkflowClient) -> None:
    first = await client.run_workflow("count")
    second = await client.run_workflow("count", handler_id=first.handler_id)

    assert first.result is not None
    assert second.result is not None
    assert (first.result.value, second.result.value) == ({"result": 1}, {"result": 2})
    assert second.handler_id == first.handler_id
    assert (await client.get_handler(first.handler_id)).run_id == second.run_id != first.run_id


# -- 86 ----------------------------------------------------------------------------------------------------------------

FORMS: list[tuple[str, str, dict[str, Any], Any]] = [
    ("plain", "greet", {"start_event": {"name": "P"}}, {"hello": "P"}),
    ("plain with dynamic data", "greet", {"start_event": {"name": "P", "_data": {"x": 1}}}, {"hello": "P"}),
    ("envelope", "greet", {"start_event": {"type": "Named", "value": {"name": "E"}}}, {"hello": "E"}),
    (
        "envelope as the client sends it",
        "greet",
        {"start_event": {"type": "Named", "value": {"name": "E"}, "qualified_name": None}},
        {"hello": "E"},
    ),
    ("legacy data", "greet", {"start_event": {"type": "Named", "data": {"name": "D"}, "qualified_name": ""}}, None),
    (
        "by qualified name",
        "greet",
        {"start_event": {"qualified_name": "support.http.rows.Named", "value": {"name": "N"}}},
        None,
    ),
    (
        "tagged",
        "greet",
        {"start_event": {"__is_pydantic": True, "value": {"name": "T"}, "qualified_name": "support.http.rows.Named"}},
        {"hello": "T"},
    ),
    ("string of plain", "greet", {"start_event": json.dumps({"name": "S"})}, {"hello": "S"}),
    ("string of an envelope", "greet", {"start_event": json.dumps({"type": "Named", "value": {"name": "S"}})}, None),
    ("kwargs", "greet", {"kwargs": {"name": "K"}}, {"hello": "K"}),
    ("start_event before kwargs", "greet", {"start_event": {"name": "S"}, "kwargs": {"name": "K"}}, {"hello": "S"}),
    ("neither", "greet", {}, {"hello": "world"}),
    ("null", "greet", {"start_event": None}, {"hello": "world"}),
    ("plain with a field `value`", "double", {"start_event": {"value": 21}}, 42),
    ("envelope with a field `value`", "double", {"start_event": {"type": "Valued", "value": {"value": 21}}}, 42),
]


@pytest.mark.parametrize(("form", "name", "body", "result"), FORMS, ids=[form for form, *_ in FORMS])
@pytest.mark.row(86)
async def test_a_start_event_may_be_given_as(
    http: httpx.AsyncClient, form: str, name: str, body: dict[str, Any], result: Any
) -> None:
    answer = await http.post(f"/workflows/{name}/run", json=body)

    assert answer.status_code == 200, answer.text
    found = answer.json()["result"]["value"]["result"]
    assert found == result if result is not None else set(found) == {"hello"}
    assert found not in ({"hello": "world"},) or form in ("neither", "null")


@pytest.mark.row(86)
async def test_the_client_can_send_a_field_called_value(client: WorkflowClient) -> None:
    for run_it in (client.run_workflow, client.run_workflow_nowait):
        handler = await run_it("double", start_event=Valued(value=4))
        done = await client.wait_for_handler(handler.handler_id, poll_interval=0.02, backoff="constant")
        assert done.result is not None
        assert done.result.value == {"result": 8}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"start_event": {"value": "x"}}, "value: Input should be a valid integer"),
        ({"start_event": None}, "value: Field required"),
        ({"start_event": [1]}, "Must be a json object, or stringified json object"),
        ({"start_event": "no json"}, "Must be a json object, or stringified json object"),
        ({"start_event": {"type": "Nope", "value": {}, "qualified_name": None}}, "Invalid event type: Nope"),
    ],
)
@pytest.mark.row(86)
async def test_what_makes_no_start_event_is_a_400(http: httpx.AsyncClient, body: dict[str, Any], says: str) -> None:
    answer = await http.post("/workflows/double/run", json=body)

    assert answer.status_code == 400
    detail = answer.json()["detail"]
    assert detail.startswith("Validation error for 'start_event': ")
    assert says in detail


# -- 87 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(87)
async def test_a_context_needs_opt_in_and_an_empty_one_does_not(http: httpx.AsyncClient) -> None:
    assert (await http.post("/workflows/greet/run", json={"context": {}})).status_code == 200

    answer = await http.post("/workflows/greet/run", json={"context": {"version": 2}})

    assert answer.status_code == 400
    assert answer.json() == {
        "detail": "Context API is disabled. Set accept_context_api=True on WorkflowServer to enable it."
    }


@pytest.mark.row(87)
async def test_a_context_is_begun_with_where_the_server_accepts_it(deployment: Any) -> None:
    server = make_server(deployment, accept_context_api=True)
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http:
        first = await run(http, "count")
        snapshot = attach(first["run_id"]).ctx.to_dict()
        second = await run(http, "count", context=snapshot)
        broken = await http.post("/workflows/count/run", json={"context": {"version": 99}})
        both = await http.post("/workflows/count/run", json={"context": snapshot, "handler_id": "x"})
    await server.stop()

    assert second["result"]["value"] == {"result": 2}
    assert broken.status_code == both.status_code == 400
    assert "mutually exclusive" in both.json()["detail"]


# -- 88 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(88)
async def test_how_a_handler_stands_is_in_the_status_code(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    done = await run(http, "greet")
    failed = await run(http, "fails")
    waiting = await asked(client)
    cancelled = await asked(client)
    await client.cancel_handler(cancelled)

    answers = {
        each: await http.get(f"/handlers/{each}")
        for each in (done["handler_id"], failed["handler_id"], waiting, cancelled, "nosuch")
    }

    assert [answer.status_code for answer in answers.values()] == [200, 500, 202, 500, 404]
    assert answers[done["handler_id"]].json() == done
    assert answers[cancelled].json()["status"] == "cancelled"
    assert answers[cancelled].json()["error"] is None
    assert answers["nosuch"].json() == {"detail": "Handler not found"}
    await client.cancel_handler(waiting)


@pytest.mark.row(88)
async def test_results_are_flattened(http: httpx.AsyncClient) -> None:
    plain, typed, failed = [await run(http, name) for name in ("greet", "typed", "fails")]

    answers = [await http.get(f"/results/{each['handler_id']}") for each in (plain, typed, failed)]

    assert [answer.status_code for answer in answers] == [200, 200, 500]
    results = [answer.json()["result"] for answer in answers]
    assert results == [{"hello": "world"}, {"text": "hello world"}, None]
    assert (await http.get("/results/nosuch")).json() == {"detail": "Handler not found"}
