"""The whole protocol on one server."""

from __future__ import annotations

from datetime import date
from typing import Any

import httpx
from pydantic import Field

from support.values.kinds import Circle, Shape
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.server import WorkflowServer

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


async def test_values_of_any_class_are_shown_as_plain_json_and_taken_as_such(runtime: Any) -> None:
    found: list[Any] = []

    class Carried(StartEvent):
        shape: Shape = Shape()
        when: date
        by_number: dict[int, str]
        hidden: str = Field(default="h", exclude=True)

    class Carry(Workflow):
        @step
        async def carry(self, ctx: Context, ev: Carried) -> StopEvent:
            found.append(ev)
            ctx.write_event_to_stream(Event(pair=(1, {2}), shape=Circle(radius=3)))
            return StopEvent(result={1: Circle(radius=2), "when": ev.when})

    server = WorkflowServer(runtime=runtime)
    server.add_workflow("carry", Carry())
    transport = httpx.ASGITransport(app=server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", timeout=60) as http:
        start = {"shape": {"name": "x"}, "when": "2026-01-02", "by_number": {"1": "a"}}
        answer = (await http.post("/workflows/carry/run", json={"start_event": start})).json()
        events = (await http.get(f"/events/{answer['handler_id']}?sse=false&after_sequence=-1")).text

    assert found == [Carried(shape=Shape(name="x"), when=date(2026, 1, 2), by_number={1: "a"})]
    assert answer["result"]["value"]["result"] == {"1": {"name": "s", "radius": 2.0}, "when": "2026-01-02"}
    assert '"pair":[1,[2]]' in events
    assert "__" not in events
