"""Rows 90 to 93: event streams of a server, byte for byte, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from llama_agents.client import WorkflowClient

from support.faults.tcp_server import TcpServer
from support.http.rows import Ans, Greet, Interview, listening, make_server

PROGRESS = b'{"value":{"done":1},"qualified_name":"support.http.rows.Progress","type":"Progress","types":null}'
NEARLY = b'{"value":{"done":2},"qualified_name":"support.http.rows.Nearly","type":"Nearly","types":["Progress"]}'
STOP = (
    b'{"value":{"result":{"hello":"world"}},"qualified_name":"umbel.events.StopEvent","type":"StopEvent","types":null}'
)
#: The missing numbers belong to internal events.
RECORDED = b"id: 1\ndata: %b\n\nid: 2\ndata: %b\n\nid: 4\ndata: %b\n\n" % (PROGRESS, NEARLY, STOP)


@pytest.fixture(scope="module")
def address(deployment: Any) -> Iterator[str]:
    with listening(make_server(deployment, sse_heartbeat_interval=0.2)) as found:
        yield found


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, timeout=30, verify=False) as client:
        yield client


@pytest.fixture
async def greeted(deployment: Any) -> str:
    """Return the handler id of a completed run."""
    with deployment.registering():
        handler = Greet().run()
        await handler
    return handler.run_id


@pytest.fixture
async def waiting(http: httpx.AsyncClient) -> AsyncIterator[str]:
    """Yield the handler id of a run that has asked and waits for its answer."""
    handler_id = (await http.post("/workflows/interview/run-nowait", json={})).json()["handler_id"]
    async for event in WorkflowClient(httpx_client=http).get_workflow_events(handler_id):
        if event.type == "Ask":
            break
    yield handler_id
    await http.post(f"/handlers/{handler_id}/cancel")


async def answer(http: httpx.AsyncClient, handler_id: str) -> None:
    await WorkflowClient(httpx_client=http).send_event(handler_id, Ans(text="it"))


# -- 90 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(90)
async def test_the_bytes_are_those_of_the_record(http: httpx.AsyncClient, greeted: str) -> None:
    found = await http.get(f"/events/{greeted}?after_sequence=-1")

    assert found.status_code == 200
    assert found.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert found.content == RECORDED


@pytest.mark.row(90)
async def test_internal_events_fill_the_gaps(http: httpx.AsyncClient, greeted: str) -> None:
    found = await http.get(f"/events/{greeted}?after_sequence=-1&include_internal=true")

    blocks = found.text.split("\n\n")[:-1]
    assert [block.split("\n")[0] for block in blocks] == [f"id: {n}" for n in range(5)]
    first = json.loads(blocks[0].split("\n")[1].removeprefix("data: "))
    assert (first["type"], first["types"]) == ("StepStateChanged", ["InternalDispatchEvent"])


@pytest.mark.parametrize(
    ("query", "headers", "ids"),
    [
        ("after_sequence=1", {}, [2, 4]),
        ("after_sequence=-1", {"Last-Event-ID": "2"}, [4]),
        ("", {"Last-Event-ID": "1"}, [2, 4]),
        ("after_sequence=1", {"Last-Event-ID": "x"}, [2, 4]),
        ("after_sequence=-9", {}, [1, 2, 4]),
    ],
)
@pytest.mark.row(90)
async def test_a_reader_resumes_after_what_it_has_seen(
    http: httpx.AsyncClient, greeted: str, query: str, headers: dict[str, str], ids: list[int]
) -> None:
    found = await http.get(f"/events/{greeted}?{query}", headers=headers)

    assert [int(line[4:]) for line in found.text.splitlines() if line.startswith("id: ")] == ids


@pytest.mark.row(90)
async def test_a_cursor_that_is_no_number_is_a_400(http: httpx.AsyncClient, greeted: str) -> None:
    found = await http.get(f"/events/{greeted}?after_sequence=x")

    assert (found.status_code, found.json()) == (400, {"detail": "Invalid after_sequence: 'x'"})
    assert (await http.get("/events/nosuch")).json() == {"detail": "Handler not found"}


@pytest.mark.row(90)
async def test_now_skips_what_was_and_heartbeats_fill_the_silence(http: httpx.AsyncClient, waiting: str) -> None:
    seen = b""
    async with http.stream("GET", f"/events/{waiting}") as found:
        async for chunk in found.aiter_raw():
            seen += chunk
            if seen.count(b": heartbeat\n\n") == 2 and b"id:" not in seen:
                await answer(http, waiting)

    beats, _, rest = seen.partition(b"id: ")
    assert set(beats.split(b"\n\n")) == {b": heartbeat", b""}
    assert b'"result":"it"' in rest
    assert b"Ask" not in rest


# -- 91 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(91)
async def test_lines_of_json(http: httpx.AsyncClient, greeted: str) -> None:
    found = await http.get(f"/events/{greeted}?sse=false&after_sequence=-1")

    assert found.headers["content-type"] == "application/x-ndjson"
    assert found.content == b"".join(line + b"\n" for line in (PROGRESS, NEARLY, STOP))


@pytest.mark.row(91)
async def test_the_qualified_name_may_be_left_out(http: httpx.AsyncClient, greeted: str) -> None:
    found = await http.get(f"/events/{greeted}?sse=no&after_sequence=-1&include_qualified_name=false")

    assert [json.loads(line)["qualified_name"] for line in found.text.splitlines()] == [None] * 3
    assert [list(json.loads(line)) for line in found.text.splitlines()] == [
        ["value", "qualified_name", "type", "types"]
    ] * 3


# -- 92 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "after_sequence=now", "after_sequence=4", "after_sequence=99", "sse=false"])
@pytest.mark.row(92)
async def test_nothing_left_is_a_204_without_a_body(http: httpx.AsyncClient, greeted: str, query: str) -> None:
    found = await http.get(f"/events/{greeted}?{query}")

    assert (found.status_code, found.content) == (204, b"")
    assert "content-length" not in found.headers
    # The connection can still be used.
    assert (await http.get("/health")).status_code == 200


@pytest.mark.row(92)
async def test_the_client_takes_it_for_the_end(http: httpx.AsyncClient, greeted: str) -> None:
    stream = WorkflowClient(httpx_client=http).get_workflow_events(greeted, after_sequence=4)

    assert [event async for event in stream] == []


# -- 93 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(93)
async def test_many_readers_of_one_run_each_see_all(http: httpx.AsyncClient, waiting: str) -> None:
    async def read() -> list[str]:
        return [event.type async for event in WorkflowClient(httpx_client=http).get_workflow_events(waiting)]

    readers = [asyncio.create_task(read()) for _ in range(20)]
    await asyncio.sleep(0)
    await answer(http, waiting)

    assert await asyncio.gather(*readers) == [["Ask", "StopEvent"]] * 20


@pytest.mark.row(93)
async def test_a_reader_that_is_cut_resumes_where_it_stopped(
    address: str, http: httpx.AsyncClient, deployment: Any
) -> None:
    """A proxy cuts every connection after some bytes; the client reconnects by itself."""
    upstream = httpx.URL(address)
    cuts = 0

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cuts
        there, back = await asyncio.open_connection(upstream.host, upstream.port)
        try:
            back.write(await reader.readuntil(b"\r\n\r\n"))
            left = 700 if cuts < 3 else 1 << 20  # the response headers and a few events
            while left > 0 and (data := await there.read(min(left, 100))):
                writer.write(data)
                left -= len(data)
            cuts += left <= 0
            await writer.drain()
        finally:
            back.transport.abort()

    with deployment.registering():
        handler = Interview(timeout=None).run()
        async for _ in handler.stream_events():
            break
        await handler.send_event(Ans(text="x" * 2000))
        await handler
    async with (
        TcpServer(pipe) as proxy,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", verify=False) as through,
    ):
        stream = WorkflowClient(httpx_client=through).get_workflow_events(handler.run_id, include_internal_events=True)
        seen = [(event.type, stream.last_sequence) async for event in stream]

    assert cuts == 3
    assert [number for _, number in seen] == list(range(len(seen)))
    assert seen[-1][0] == "StopEvent"


async def test_events_may_be_filtered_by_type(http: httpx.AsyncClient, greeted: str) -> None:
    async def types(query: str) -> list[str]:
        found = await http.get(f"/events/{greeted}?sse=false&after_sequence=-1&{query}")
        return [json.loads(line)["type"] for line in found.text.splitlines()]

    assert await types("event_type=Progress") == ["Progress", "Nearly"]
    assert await types("event_type=Nearly&event_type=StopEvent") == ["Nearly", "StopEvent"]
    assert await types("event_type=Nearly,StopEvent") == ["Nearly", "StopEvent"]
    assert await types("event_type=support.http.rows.Nearly") == ["Nearly"]
    assert await types("event_type=Nosuch") == []
