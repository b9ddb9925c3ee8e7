"""The past of runs over HTTP: points, the state of a run at a point, forks and rewinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import umbel
from support.http.calls import run
from support.http.flows import make_server
from umbel import Runtime, Settings
from umbel.orchestration.connection.keys import new_id
from umbel.server import Principal, WorkflowServer

Asking = Callable[..., httpx.AsyncClient]


async def counted(http: httpx.AsyncClient) -> str:
    """Return the path of a run that has counted to one."""
    return f"/runs/{(await run(http, 'count'))['run_id']}"


async def got(http: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_changes_of_a_run_are_listed_in_pages(client: httpx.AsyncClient) -> None:
    address = await counted(client)

    first = await client.get(f"{address}/history", params={"limit": 2})
    points, following = first.json()["points"], first
    while "next" in following.links:
        following = await client.get(following.links["next"]["url"])
        points += following.json()["points"]

    assert [each["seq"] for each in points] == list(range(1, len(points) + 1))
    assert len(first.json()["points"]) == 2 < len(points)
    [commit] = (await got(client, f"{address}/history", kind="commit", step="count"))["points"]
    assert (commit["step"], commit["attempt"], commit["outcome"], commit["branch"]) == ("count", 1, "returned", 0)
    assert commit["worker"]
    last = await got(client, f"{address}/history", newest_first="true", limit=1)
    assert last["points"] == points[-1:]


async def test_a_run_is_looked_at_as_it_was_at_a_point(client: httpx.AsyncClient) -> None:
    address = await counted(client)

    before = await got(client, f"{address}/history/before count")
    after = await got(client, f"{address}/history/after count")

    assert before["state"] == {}
    assert [(each["step"], each["is"]) for each in before["work"]["items"]] == [("count", "waiting")]
    assert before["work"]["items"][0]["events"][0]["type"] == "umbel.StartEvent"
    assert (after["state"], after["work"]["item_count"], after["work"]["status"]) == ({"n": 1}, 0, "completed")
    assert await got(client, f"{address}/history/{after['seq']}/state") == {"state": {"n": 1}}
    assert await got(client, f"{address}/history/{before['seq']}/work") == before["work"]
    patch = await got(client, f"{address}/diff", before="before count", after=after["seq"])
    assert patch == {
        "before": before["seq"],
        "after": after["seq"],
        "patch": [{"op": "add", "path": "/n", "value": 1}],
    }
    assert (await got(client, f"{address}/history/1/snapshot"))["umbel"]


async def test_a_run_is_what_its_journal_leads_to(client: httpx.AsyncClient) -> None:
    found = await got(client, f"{await counted(client)}/verify")

    assert found["entries"] > 0
    assert (found["holds"], found["differences"]) == (True, [])


async def test_a_run_goes_on_from_a_point_as_another_run_or_in_place(client: httpx.AsyncClient) -> None:
    address, chosen, session = await counted(client), new_id(), f"forked {new_id()}"

    forked = await client.post(f"{address}/fork", json={"point": "before count", "state": {"n": 41}})
    patched = await client.post(
        f"{address}/fork",
        json={"point": 1, "state": [{"op": "add", "path": "/n", "value": 6}], "run_id": chosen},
    )
    rewound = await client.post(f"{address}/rewind", json={"point": "before count", "state": {"n": 9}})

    assert await umbel.attach(forked.json()["run_id"]) == 42
    assert patched.json() == {"run_id": chosen}
    assert await umbel.attach(chosen) == 7
    assert rewound.json() == {"run_id": address.rpartition("/")[2]}
    assert await umbel.attach(rewound.json()["run_id"]) == 10
    assert (await client.post(f"{address}/fork", json={"point": 1, "run_id": chosen})).status_code == 409
    recorded = {"point": 1, "reuse": "recorded", "answers": "recorded", "code": "recorded", "session_id": session}
    answer = await client.post(f"{address}/fork", json=recorded | {"keep_idempotency_keys": True})
    assert answer.status_code == 200, answer.text
    in_session = answer.json()
    assert await umbel.attach(in_session["run_id"]) == 1
    assert (await client.get(f"/sessions/{session}")).json()["version"] > 0


async def test_a_run_that_goes_on_is_put_back_only_if_that_is_asked_for(client: httpx.AsyncClient) -> None:
    held = (await client.post("/workflows/interview/run-nowait", json={})).json()["run_id"]

    refused = await client.post(f"/runs/{held}/rewind", json={"point": 1})
    done = await client.post(f"/runs/{held}/rewind", json={"point": 1, "stop_running": True})

    assert refused.status_code == 409
    assert "stop_running=True" in refused.json()["detail"]
    assert done.status_code == 200, done.text
    await umbel.attach(held).cancel()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "why"),
    [
        ("GET", "history?limit=0", None, 400, "Link header"),
        ("GET", "history?limit=1001", None, 400, "Link header"),
        ("GET", "history?after=x", None, 400, "Invalid after"),
        ("GET", "history/999", None, 404, "has no point 999: its history is kept from 1 to"),
        ("GET", "history/before nothing", None, 404, "has 0 points at which step 'nothing' had an outcome"),
        ("GET", "history/somewhere/state", None, 404, "is not a point"),
        ("GET", "diff?before=1", None, 400, "'after' is required"),
        ("GET", "diff?before=1&after=999", None, 404, "has no point 999"),
        ("POST", "fork", {}, 400, "'point' is required"),
        ("POST", "fork", [], 400, "expected an object"),
        ("POST", "fork", {"point": True}, 400, "'point' is required"),
        ("POST", "fork", {"point": 1, "state": 5}, 400, "'state' must be an object by key, or a JSON Patch"),
        ("POST", "fork", {"point": 1, "events": {"count": 5}}, 400, "'events' must be an object of fields"),
        ("POST", "fork", {"point": 1, "code": "old"}, 400, "expected current or recorded"),
        ("POST", "fork", {"point": 1, "reuse": "all"}, 400, "expected none or recorded"),
        ("POST", "fork", {"point": 1, "keep_idempotency_keys": 1}, 400, "must be a boolean"),
        ("POST", "fork", {"point": 1, "run_id": "a", "session_id": "b"}, 409, "takes a run_id or a session"),
        ("POST", "fork", {"point": 1, "timeout_seconds": "x"}, 400, "must be a number of seconds"),
        ("POST", "fork", {"point": 1, "timeout_seconds": -1}, 400, "must be a number of seconds, 0 or more"),
        ("POST", "rewind", {"point": 1, "timeout_seconds": -1}, 400, "must be a number of seconds, 0 or more"),
        ("POST", "fork", {"point": 1, "events": {"nobody": {}}}, 409, "does not name exactly one work item"),
        ("POST", "fork", {"point": 999}, 404, "has no point 999"),
        ("POST", "fork", {"point": "after count"}, 409, "had already ended at point"),
        ("POST", "fork", {"point": 1, "run_id": "-x"}, 409, "cannot be a run id"),
        ("GET", "history/²", None, 404, "is not a point"),
        ("GET", f"history/before count%23{'9' * 5000}", None, 404, "has 0 points"),
        ("POST", "fork", {"point": 1, "state": {"a": "\ud800"}}, 409, "half a surrogate pair"),
        ("POST", "fork", {"point": 1, "state": {"\ud800": 1}}, 409, "half a surrogate pair"),
        ("POST", "fork", {"point": 1, "state": {"a": json.loads("[" * 300 + "]" * 300)}}, 409, "deeper"),
        ("POST", "fork", {"point": 1, "state": {"": "shop.State"}}, 409, "the class of the state"),
        ("POST", "fork", {"point": 1, "state": [{"op": "add", "path": 5, "value": 1}]}, 409, "not a JSON Pointer"),
        (
            "POST",
            "rewind",
            {"point": 1, "state": [{"op": "replace", "path": "n", "value": {}}]},
            409,
            "not a JSON Pointer",
        ),
        ("POST", "rewind", {"point": 1, "stop_running": 1}, 400, "must be a boolean"),
        ("POST", "rewind", {"point": "after count"}, 409, "had no work left"),
        ("POST", "rewind", {"point": 1, "state": [{"op": "remove", "path": "/x"}]}, 409, "The patch does not fit"),
    ],
)
async def test_requests_that_do_not_fit_are_refused_with_the_librarys_words(
    client: httpx.AsyncClient, method: str, path: str, body: Any, status: int, why: str
) -> None:
    address = await counted(client)

    answer = await client.request(method, f"{address}/{path}", content=None if body is None else json.dumps(body))

    assert answer.status_code == status, answer.text
    assert why in answer.json()["detail"]


async def test_what_the_journal_does_not_keep_is_no_longer_there(runtime: Runtime, asking: Asking) -> None:
    forgetful = Runtime(Settings(redis_url=runtime.settings.redis_url, history="summary"))
    http = asking(make_server(forgetful))
    address = await counted(http)

    looked = await http.get(f"{address}/history/2")
    forked = await http.post(f"{address}/fork", json={"point": 2})
    forgetful.close()

    assert (looked.status_code, forked.status_code) == (410, 409)
    assert "history='summary'" in looked.json()["detail"]


async def test_runs_that_are_not_served_here_are_not_found(runtime: Runtime, client: httpx.AsyncClient) -> None:
    address = await counted(client)
    other = WorkflowServer(runtime=runtime)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(other.app), base_url="http://localhost") as http:
        assert (await http.get(f"{address}/history")).status_code == 404
    assert (await client.get("/runs/nobody/history")).status_code == 404
    assert (await client.post("/runs/-x/fork", json={"point": 1})).status_code == 404


async def test_the_hook_decides_about_the_runs_session_and_about_a_new_run(asking: Asking) -> None:
    seen: list[tuple[str, str | None]] = []

    def authorize(principal: Principal, action: str, run_id: str | None) -> bool:
        seen.append((action, run_id))
        return action != "change" and (action, run_id) != ("start", "mine")

    http = asking(authorize=authorize)
    address = f"/runs/{(await run(http, 'count', handler_id='ada past'))['run_id']}"
    seen.clear()

    assert (await http.post(f"{address}/rewind", json={"point": 1})).status_code == 403
    assert (await http.post(f"{address}/fork", json={"point": 1, "run_id": "mine"})).status_code == 403
    assert (await http.post(f"{address}/fork", json={"point": 1})).status_code == 200
    assert seen == [
        ("change", "ada past"),
        ("read", "ada past"),
        ("start", "mine"),
        ("read", "ada past"),
        ("start", None),
    ]


async def test_the_routes_are_in_the_document(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert {"404", "410", "422"} <= paths["/runs/{run_id}/history/{point}"]["get"]["responses"].keys()
    assert [each["required"] for each in paths["/runs/{run_id}/diff"]["get"]["parameters"]] == [True] * 3
    assert "409" in paths["/runs/{run_id}/rewind"]["post"]["responses"]
