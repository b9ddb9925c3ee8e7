"""The protocol from start to end, on one server."""

from __future__ import annotations

import httpx

ORDER = [
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


async def test_a_run_over_http_gives_its_result(client: httpx.AsyncClient) -> None:
    answer = await client.post("/workflows/greet/run", json={"start_event": {"name": "W"}})

    assert answer.status_code == 200
    data = answer.json()
    assert list(data) == ORDER
    assert (data["workflow_name"], data["status"], data["error"]) == ("greet", "completed", None)
    assert data["handler_id"] == data["run_id"]
    assert data["result"] == {
        "value": {"result": {"hello": "W"}},
        "qualified_name": "umbel.events.StopEvent",
        "type": "StopEvent",
        "types": None,
    }


async def test_what_a_run_has_published_is_read_from_the_beginning(client: httpx.AsyncClient) -> None:
    handler_id = (await client.post("/workflows/greet/run", json={})).json()["handler_id"]

    answer = await client.get(f"/events/{handler_id}", params={"after_sequence": -1})

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, second, last, end = answer.text.split("\n\n")
    assert first == (
        'id: 1\ndata: {"value":{"done":1},"qualified_name":"support.http.flows.Progress",'
        '"type":"Progress","types":null}'
    )
    assert second == (
        'id: 2\ndata: {"value":{"done":2},"qualified_name":"support.http.flows.Nearly",'
        '"type":"Nearly","types":["Progress"]}'
    )
    assert last.startswith('id: 4\ndata: {"value":{"result":{"hello":"world"}}')
    assert end == ""


async def test_the_next_run_of_a_handler_has_its_state(client: httpx.AsyncClient) -> None:
    runs = [(await client.post("/workflows/count/run", json={"handler_id": "me@example.com"})).json() for _ in range(3)]

    assert [run["result"]["value"]["result"] for run in runs] == [1, 2, 3]
    assert {run["handler_id"] for run in runs} == {"me@example.com"}
    assert len({run["run_id"] for run in runs}) == 3
