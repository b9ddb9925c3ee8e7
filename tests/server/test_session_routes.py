"""Sessions over HTTP: runs that wait for their turn, and operations on whole sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import umbel
from support.http.calls import run
from support.http.flows import Asked
from umbel.orchestration.connection.keys import new_id
from umbel.server import Principal

Asking = Callable[..., httpx.AsyncClient]


@pytest.fixture
def name() -> str:
    return f"ada {new_id()}"


async def begin(http: httpx.AsyncClient, workflow: str, **body: Any) -> dict[str, Any]:
    """Start a run without waiting for it."""
    answer = await http.post(f"/workflows/{workflow}/run-nowait", json=body)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()
    return data


async def interview(http: httpx.AsyncClient, name: str, **body: Any) -> str:
    """Start a run in a session, and return its path once it waits for an answer."""
    data = await begin(http, "interview", session_id=name, **body)
    return f"/sessions/{name}/runs/{data['run_id']}"


async def answered(http: httpx.AsyncClient, address: str) -> None:
    """Answer a run's question once it has been asked."""
    async for published in umbel.attach(address.rpartition("/")[2]).stream_events():
        if isinstance(published, Asked):
            break
    event = {"event": {"type": "Answer", "value": {"text": "42"}}}
    assert (await http.post(f"{address}/events", json=event)).status_code == 200


async def ended(http: httpx.AsyncClient, address: str) -> dict[str, Any]:
    """Wait until a run has ended, and return it."""
    while True:
        answer = await http.get(address)
        if answer.status_code != 202:
            data: dict[str, Any] = answer.json()
            return data
        await asyncio.sleep(0.01)


async def test_runs_of_a_session_wait_for_their_turn(client: httpx.AsyncClient, name: str) -> None:
    held = await interview(client, name)
    waiting = [(await begin(client, "count", session_id=name))["run_id"] for _ in range(2)]

    session = (await client.get(f"/sessions/{name}")).json()
    runs = (await client.get(f"/sessions/{name}/runs")).json()["runs"]

    assert (session["status"], session["waiting"], session["waiting_runs"]) == ("busy", 2, waiting)
    assert [(each["run_id"], each["status"]) for each in runs[:2]] == [(each, "queued") for each in reversed(waiting)]
    assert runs[2]["status"] == "running"
    await answered(client, held)
    ends = [await ended(client, f"/sessions/{name}/runs/{each}") for each in waiting]
    assert [each["result"]["value"]["result"] for each in ends] == [1, 2]
    assert (await client.get(f"/sessions/{name}")).json()["status"] == "idle"


async def test_a_run_that_waits_for_its_turn_says_so_to_those_who_know_of_sessions(
    client: httpx.AsyncClient, name: str
) -> None:
    held = await interview(client, name)
    begun = await begin(client, "count", session_id=name)
    waiting = f"/sessions/{name}/runs/{begun['run_id']}"

    answer = await client.get(waiting)

    assert (begun["status"], answer.json()["status"], answer.status_code) == ("queued", "queued", 202)
    assert (await client.get(f"/handlers/{name}")).json()["status"] == "running"
    await answered(client, held)
    assert (await ended(client, waiting))["status"] == "completed"


@pytest.mark.parametrize("how", ["session_id", "handler_id", "neither"])
async def test_a_start_that_is_made_again_with_its_key_is_the_same_run(
    client: httpx.AsyncClient, name: str, how: str
) -> None:
    body = {} if how == "neither" else {how: name}
    starts = [
        await client.post("/workflows/count/run", json=body, headers={"Idempotency-Key": f"{name} {key}"})
        for key in (1, 1, 2, 1)
    ]
    assert [answer.status_code for answer in starts] == [200] * 4
    ids = [answer.json()["run_id"] for answer in starts]
    assert ids[0] == ids[1] == ids[3] != ids[2]
    if how != "neither":
        assert len((await client.get(f"/sessions/{name}/runs")).json()["runs"]) == 2


async def test_an_idempotency_key_does_not_bypass_the_hook(asking: Asking, name: str) -> None:
    runs: dict[str, str] = {}

    def own(principal: Principal, action: str, run_id: str | None) -> bool:
        return action != "read" or runs.get(principal.headers["x-user"]) == run_id

    http = asking(authorize=own)
    for user in ("ada", "bob"):
        start = {"headers": {"Idempotency-Key": name, "X-User": user}, "json": {}}
        answer = await http.post("/workflows/count/run-nowait", **start)
        if user == "bob":
            assert answer.status_code == 403, answer.text
            assert runs["ada"] not in answer.text
            continue
        runs[user] = answer.json()["run_id"]
        again = await http.post("/workflows/count/run-nowait", **start)
        assert again.json()["run_id"] == runs[user]


async def test_a_start_with_a_key_is_made_once_by_many_at_once_while_another_run_goes_on(
    client: httpx.AsyncClient, name: str
) -> None:
    held = await interview(client, name)
    body, key = {"session_id": name}, {"Idempotency-Key": "7"}
    asked = [client.post("/workflows/count/run-nowait", json=body, headers=key) for _ in range(5)]
    ids = {answer.json()["run_id"] for answer in await asyncio.gather(*asked)}
    assert (await client.get(f"/sessions/{name}")).json()["waiting_runs"] == [*ids]
    await answered(client, held)
    assert (await ended(client, f"/sessions/{name}/runs/{ids.pop()}"))["result"]["value"]["result"] == 1


async def test_an_idempotency_key_applies_to_one_session_and_only_to_starts(
    client: httpx.AsyncClient, name: str
) -> None:
    key = {"Idempotency-Key": "8"}
    sessions = [{"session_id": name}, {"session_id": f"{name} 2"}]
    starts = [await client.post("/workflows/count/run", json=body, headers=key) for body in sessions]
    assert starts[0].json()["run_id"] != starts[1].json()["run_id"]
    joined = await client.post("/workflows/count/run", json=sessions[0] | {"when_busy": "join"}, headers=key)
    assert joined.status_code == 400
    long = await client.post("/workflows/count/run", json=sessions[0], headers={"Idempotency-Key": "x" * 256})
    assert long.status_code == 400


async def test_a_run_in_a_session_may_be_refused_take_over_or_be_cancelled(
    client: httpx.AsyncClient, name: str
) -> None:
    held = await interview(client, name)
    refused = await client.post("/workflows/count/run", json={"session_id": name, "when_busy": "reject"})
    assert refused.status_code == 409
    assert "is running" in refused.json()["detail"]

    assert (await run(client, "count", session_id=name, when_busy="interrupt"))["result"]["value"]["result"] == 1
    assert (await client.get(held)).json()["status"] == "cancelled"
    again = await interview(client, name)
    assert (await client.post(f"{again}/cancel")).json() == {"status": "cancelled"}


async def test_the_state_is_read_put_back_and_forked(client: httpx.AsyncClient, name: str) -> None:
    for _ in range(3):
        await run(client, "count", session_id=name)
    versions = (await client.get(f"/sessions/{name}/versions")).json()["versions"]
    assert [each["version"] for each in versions] == [3, 2, 1, 0]
    before = await client.get(f"/sessions/{name}/state", params={"version": versions[2]["version"]})
    assert before.json() == {"state": {"n": 1}}

    forked = await client.post(f"/sessions/{name}/fork", json={"name": f"{name} 2", "at": 2})
    back = await client.post(f"/sessions/{name}/rewind", json={"to": 1})

    assert forked.json() == {"session_id": f"{name} 2"}
    assert (await client.get(f"/sessions/{name} 2/state")).json() == {"state": {"n": 2}}
    assert back.json() == {"version": 4}
    assert (await run(client, "count", session_id=name))["result"]["value"]["result"] == 2
    assert (await client.post(f"/sessions/{name}/fork", json={"name": f"{name} 2"})).status_code == 409


async def test_a_closed_session_takes_no_runs_and_a_deleted_one_is_not_found(
    client: httpx.AsyncClient, name: str
) -> None:
    held = await interview(client, name)
    assert (await client.delete(f"/sessions/{name}")).status_code == 409
    assert (await client.post(f"/sessions/{name}/rewind", json={"to": 0})).status_code == 409

    await client.post(f"/sessions/{name}/close")

    assert (await client.post("/workflows/count/run", json={"session_id": name})).status_code == 409
    await answered(client, held)
    await ended(client, held)
    assert (await client.delete(f"/sessions/{name}")).json() == {"status": "deleted"}
    assert (await client.get(f"/sessions/{name}")).status_code == 404
    assert (await client.get(held)).status_code == 404


async def test_sessions_are_listed(client: httpx.AsyncClient, name: str) -> None:
    for n in range(2):
        await run(client, "count", session_id=f"{name} {n}")

    found = (await client.get("/sessions", params={"prefix": name, "status": "idle"})).json()["sessions"]

    assert [each["session_id"] for each in found] == [f"{name} 1", f"{name} 0"]
    assert (await client.get("/sessions", params={"prefix": name, "status": "busy"})).json() == {"sessions": []}
    assert len((await client.get("/sessions", params={"prefix": name, "limit": 1})).json()["sessions"]) == 1


async def test_a_named_handler_is_a_session(client: httpx.AsyncClient, name: str) -> None:
    await run(client, "count", handler_id=name)

    assert (await run(client, "count", session_id=name))["result"]["value"]["result"] == 2
    assert (await client.get(f"/handlers/{name}")).json()["result"]["value"]["result"] == 2


async def test_a_handler_whose_next_run_has_begun_meanwhile_is_not_purged(client: httpx.AsyncClient, name: str) -> None:
    await interview(client, name)
    second = await interview(client, name)

    answer = await client.post(f"/handlers/{name}/cancel?purge=true")

    assert answer.status_code == 409
    assert "is running" in answer.json()["detail"]
    assert (await client.get(second)).status_code == 202
    await client.post(f"{second}/cancel")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"handler_id": "a", "session_id": "b"}, "mutually exclusive"),
        ({"handler_id": "a", "when_busy": "queue"}, "mutually exclusive"),
        ({"when_busy": "queue"}, "give its 'session_id'"),
        ({"session_id": "a", "when_busy": "sometimes"}, "expected one of queue, reject"),
        ({"session_id": "a/b"}, "cannot be a handler id or the name of a session"),
        ({"session_id": 5}, "must be a string"),
    ],
)
async def test_a_start_in_a_session_that_does_not_fit_is_a_400_that_says_why(
    client: httpx.AsyncClient, body: dict[str, Any], why: str
) -> None:
    answer = await client.post("/workflows/count/run-nowait", json=body)

    assert answer.status_code == 400
    assert why in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/sessions?status=tired", None, 400),
        ("GET", "/sessions?limit=0", None, 400),
        ("GET", "/sessions?limit=000000100999999999", None, 400),
        ("GET", "/sessions/{name}/state?version=x", None, 400),
        ("GET", "/sessions/{name}/state?version=99", None, 404),
        ("POST", "/sessions/{name}/rewind", {}, 400),
        ("POST", "/sessions/{name}/rewind", {"to": 99}, 400),
        ("POST", "/sessions/{name}/fork", {}, 400),
        ("GET", "/sessions/nobody", None, 404),
        ("GET", "/sessions/nobody/state", None, 404),
        ("GET", "/sessions/{name}/runs/other.run", None, 404),
        ("GET", "/sessions/{name}/runs/-x", None, 404),
    ],
)
async def test_other_requests_that_do_not_fit(
    client: httpx.AsyncClient, name: str, method: str, path: str, body: Any, status: int
) -> None:
    await run(client, "count", session_id=name)

    answer = await client.request(method, path.format(name=name), **({} if body is None else {"json": body}))

    assert answer.status_code == status, answer.text


async def test_a_run_is_found_in_its_own_session_only(client: httpx.AsyncClient, name: str) -> None:
    held = await interview(client, name)
    await run(client, "count", session_id=f"{name} 2")

    assert (await client.get(held)).status_code == 202
    assert (await client.get(held.replace(name, f"{name} 2", 1))).status_code == 404
    await client.post(f"{held}/cancel")


async def test_the_hook_is_asked_about_the_session_and_about_what_happens_to_the_run_that_goes_on(
    asking: Asking, name: str
) -> None:
    seen: list[tuple[str, str | None]] = []

    def authorize(principal: Principal, action: str, run_id: str | None) -> bool:
        seen.append((action, run_id))
        return action != "cancel" and run_id != f"{name} 2"

    http = asking(authorize=authorize)
    await run(http, "count", session_id=name)
    assert (await http.post("/workflows/count/run", json={"session_id": f"{name} 2"})).status_code == 403
    for when_busy in ("interrupt", "rollback"):
        body = {"session_id": name, "when_busy": when_busy}
        assert (await http.post("/workflows/count/run", json=body)).status_code == 403
    assert (await http.post(f"/sessions/{name}/fork", json={"name": f"{name} 2"})).status_code == 403
    assert (await http.get(f"/sessions/{name} 2")).status_code == 403
    assert [each["session_id"] for each in (await http.get("/sessions")).json()["sessions"]][:1] == [name]
    assert ("start", name) in seen
    assert ("cancel", name) in seen
