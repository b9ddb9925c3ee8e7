"""Rows 89, 94 and 95: handlers are listed, receive events, are cancelled and purged, over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from llama_agents.client import WorkflowClient

from support.http.calls import asked, run
from support.http.rows import Ans, Ask, listening, make_server
from support.store.blocking import operator_at
from umbel import StartEvent, StopEvent, Workflow, attach, step
from umbel.orchestration.model.errors import UmbelError


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


# -- 89 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(89)
async def test_handlers_are_filtered(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    done, failed = (await run(http, "greet"))["handler_id"], (await run(http, "fails"))["handler_id"]

    async def listed(query: str) -> set[str]:
        answer = await http.get(f"/handlers?{query}")
        assert answer.status_code == 200
        return {each["handler_id"] for each in answer.json()["handlers"]}

    assert {done, failed} <= await listed("status=&workflow_name=")
    assert {done, failed} <= await listed("")
    assert done in await listed("status=completed")
    assert failed not in await listed("status=completed")
    assert {done, failed} <= await listed("status=completed&status=failed")
    assert failed in await listed("workflow_name=fails")
    assert done not in await listed("workflow_name=fails")
    assert await listed("status=nosuch") == set()
    assert {done, failed} <= {each.handler_id for each in (await client.get_handlers()).handlers}
    found = await client.get_handlers(status=["failed"], workflow_name=["fails", "greet"])
    assert failed in {each.handler_id for each in found.handlers}
    assert {each.status for each in found.handlers} == {"failed"}
    assert len((await http.get("/handlers?limit=1")).json()["handlers"]) == 1


@pytest.mark.row(89)
async def test_runs_that_were_started_elsewhere_are_handlers_too(client: WorkflowClient) -> None:
    from support.http.rows import Greet

    handler = Greet().run(name="elsewhere")
    await handler

    data = await client.get_handler(handler.run_id)

    assert (data.handler_id, data.workflow_name, data.status) == (handler.run_id, "greet", "completed")


# -- 94 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(94)
async def test_an_event_is_sent(client: WorkflowClient) -> None:
    handler_id = await asked(client)

    sent = await client.send_event(handler_id, Ans(text="me"))

    assert sent.status == "sent"
    done = await client.wait_for_handler(handler_id, poll_interval=0.02, backoff="constant")
    assert done.result is not None
    assert done.result.value == {"result": "me"}


@pytest.mark.row(94)
async def test_an_event_may_be_a_string(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    handler_id = await asked(client)

    answer = await http.post(
        f"/events/{handler_id}", json={"event": json.dumps({"type": "Ans", "value": {"text": "it"}})}
    )

    assert (answer.status_code, answer.json()) == (200, {"status": "sent"})
    done = await client.wait_for_handler(handler_id, poll_interval=0.02, backoff="constant")
    assert done.result is not None
    assert done.result.value == {"result": "it"}


@pytest.mark.row(94)
async def test_the_client_waits_for_a_handler_as_long_as_it_is_asked_to(client: WorkflowClient) -> None:
    handler_id = await asked(client)

    for backoff in ("constant", "linear", "exponential"):
        with pytest.raises(TimeoutError, match=f"Handler {handler_id!r} did not complete within 0.05 seconds"):
            await client.wait_for_handler(
                handler_id, timeout=0.05, poll_interval=0.01, max_poll_interval=0.02, backoff=backoff
            )

    await client.send_event(handler_id, Ans(text="now"))
    done = await client.wait_for_handler(
        handler_id, timeout=30, poll_interval=0.01, max_poll_interval=0.05, backoff="exponential"
    )
    assert (done.status, done.result and done.result.value) == ("completed", {"result": "now"})
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await client.wait_for_handler("never-started", timeout=1)


@pytest.mark.row(94)
async def test_a_class_of_the_clients_own_program_is_the_workflows_of_that_name(
    client: WorkflowClient, http: httpx.AsyncClient
) -> None:
    """If program and client are one file, the client names its classes `__main__.Ans`."""
    handler_id = await asked(client)

    event = {"qualified_name": f"__main__.{Ans.__qualname__}", "value": {"text": "main"}}
    answer = await http.post(f"/events/{handler_id}", json={"event": event})

    assert (answer.status_code, answer.json()) == (200, {"status": "sent"})
    done = await client.wait_for_handler(handler_id, poll_interval=0.02)
    assert done.result is not None
    assert done.result.value == {"result": "main"}


GOOD = {"type": "Ans", "value": {"text": "x"}}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "Error processing request: "),
        (b"[]", 400, "expected an object"),
        ({}, 400, "Event data is required"),
        ({"event": {}}, 400, "Event data is required"),
        ({"event": ""}, 400, "Event data is required"),
        ({"event": {"type": "Nope", "value": {}}}, 400, "Invalid event type: Nope. Expected one of "),
        ({"event": {"value": {}}}, 400, "Must have a type or a qualified name"),
        ({"event": {"type": "Ans", "value": {}}}, 400, "text: Field required"),
        ({"event": GOOD, "step": "ask"}, 400, "Step ask does not accept event of type Ans"),
        ({"event": GOOD, "step": "zzz"}, 400, "Failed to send event: Step zzz does not exist"),
        ({"event": GOOD, "step": 5}, 400, "'step' must be a string"),
        ({"event": {"type": "StartEvent", "value": {}}, "step": "nosuch"}, 400, "does not exist"),
    ],
)
@pytest.mark.row(94)
async def test_what_cannot_be_sent_is_a_400(
    client: WorkflowClient, http: httpx.AsyncClient, body: Any, status: int, says: str
) -> None:
    handler_id = await asked(client)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    answer = await http.post(f"/events/{handler_id}", content=content)

    assert answer.status_code == status
    assert says in answer.json()["detail"]
    await client.cancel_handler(handler_id, purge=True)


@pytest.mark.row(94)
async def test_a_handler_that_is_unknown_or_over_takes_no_event(http: httpx.AsyncClient) -> None:
    for name in ("greet", "fails"):
        answer = await http.post(f"/events/{(await run(http, name))['handler_id']}", json={"event": GOOD})
        assert (answer.status_code, answer.json()) == (409, {"detail": "Workflow already completed"})
    answer = await http.post("/events/nosuch", json={"event": GOOD})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Handler not found"})


@pytest.mark.row(94)
async def test_an_event_that_no_signature_shows_must_be_listed(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    handler_id = await asked(client, "open")

    for event in (GOOD, {"qualified_name": "support.http.rows.Ans", "value": {"text": "x"}}):
        answer = await http.post(f"/events/{handler_id}", json={"event": event})
        assert answer.status_code == 400
    assert "additional_events" in answer.json()["detail"]
    await client.cancel_handler(handler_id)


# -- 95 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row(95)
async def test_cancel_and_purge(client: WorkflowClient, http: httpx.AsyncClient) -> None:
    running, purged, over = await asked(client), await asked(client), (await run(http, "greet"))["handler_id"]

    assert (await client.cancel_handler(running)).status == "cancelled"
    assert (await http.get(f"/handlers/{running}")).json()["status"] == "cancelled"
    assert (await client.cancel_handler(purged, purge=True)).status == "deleted"
    assert (await client.cancel_handler(over, purge=True)).status == "deleted"
    for handler_id, purge in ((purged, False), (over, True), ("nosuch", False), ("nosuch", True), (running, False)):
        answer = await http.post(f"/handlers/{handler_id}/cancel", params={"purge": str(purge).lower()})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Handler not found"})
    with pytest.raises(UmbelError):
        attach(purged)


class Elsewhere(Workflow):
    """A workflow that is not served."""

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=1)


@pytest.mark.row(95)
async def test_a_handler_whose_workflow_is_not_served_can_only_be_purged(runtime: Any, http: httpx.AsyncClient) -> None:
    handler = Elsewhere(runtime=runtime).run()
    await handler

    for path in (f"/handlers/{handler.run_id}/cancel", f"/events/{handler.run_id}"):
        assert (await http.post(path, json={"event": {"type": "StartEvent"}})).status_code == 404
    answer = await http.post(f"/handlers/{handler.run_id}/cancel", params={"purge": "true"})
    assert (answer.status_code, answer.json()) == (200, {"status": "deleted"})
    with pytest.raises(UmbelError):
        attach(handler.run_id)


@pytest.mark.row(88)
async def test_a_stored_result_that_is_damaged_is_said_to_be(runtime: Any, http: httpx.AsyncClient) -> None:
    handler_id = (await run(http, "greet"))["handler_id"]
    operator = operator_at(runtime.settings.redis_url)
    key = runtime.store.keys.of_run(handler_id)["run"]
    ending = operator.hget(key, "ending")
    operator.hset(key, "ending", ending.replace(b'{"result":', b'{"result" '))

    answer = await http.get(f"/handlers/{handler_id}")

    assert (answer.status_code, answer.json()) == (422, {"detail": "Stored handler result cannot be decoded"})
    [listed] = [each for each in (await http.get("/handlers")).json()["handlers"] if each["handler_id"] == handler_id]
    assert (listed["status"], listed["result"], listed["result_unreadable"]) == ("completed", None, True)


@pytest.mark.row(95)
async def test_a_purged_handler_begins_again(client: WorkflowClient) -> None:
    for _ in range(2):
        await client.run_workflow("count", handler_id="row-95")
    await client.cancel_handler("row-95", purge=True)

    anew = await client.run_workflow("count", handler_id="row-95")

    assert anew.result is not None
    assert anew.result.value == {"result": 1}


@pytest.mark.row(95)
async def test_the_stream_of_a_cancelled_run_says_so(client: WorkflowClient) -> None:
    handler_id = await asked(client)
    await client.cancel_handler(handler_id)

    events = [event async for event in client.get_workflow_events(handler_id)]

    assert [event.type for event in events] == [Ask.__name__, "WorkflowCancelledEvent"]
    assert events[-1].types == ["StopEvent"]
