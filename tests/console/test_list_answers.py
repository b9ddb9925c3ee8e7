"""Lists contain only what their reader may see: no data of other runs is in rows, headers or cursors."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.console import flows as console_flows
from support.console.driving import Keep
from support.store.blocking import store_of
from umbel import Settings
from umbel.errors import WorkflowRuntimeError
from umbel.orchestration.history.forks import family
from umbel.orchestration.inspection import run_list
from umbel.orchestration.store.scripts import pack
from umbel.server import Principal, WorkflowServer
from umbel.server.console import child_rows, deployment_routes
from umbel.server.http.cursors import Cursors
from umbel.tasks.client.runtime import Runtime

NAME, CLASS = next(iter(console_flows.WORKFLOWS.items()))
WORKFLOW = CLASS(timeout=None).workflow_name
#: Data of other users: ids, the name of a workflow, instants.
THEIRS = ("theirs", "Secret", "17000000")


def mine_only(_: Principal, action: str, run_id: str | None) -> bool:
    return run_id is None or run_id.startswith("mine")


def make_mine(keep: Keep) -> None:
    for n in range(7):
        keep(f"mine{n}", ("completed", "failed", "running")[n % 3], workflow=WORKFLOW, at=1_600_000_000_000 + n)


def make_theirs(keep: Keep) -> None:
    for n in range(60):
        keep(f"theirs-{n}", ("completed", "running")[n % 2], workflow="Secret", at=1_700_000_000_000 + n)
        keep(f"theirs{n}", "completed", workflow=WORKFLOW, at=1_700_000_005_000 + n)


@pytest.fixture
def other_keep(redis_url: str, keep: Keep) -> Iterator[tuple[Runtime, Keep]]:
    """A deployment with no runs of other users."""
    made = Runtime(Settings(redis_url=redis_url, key_prefix=f"o{secrets.token_hex(5)}"))
    store = store_of(made)

    def make(run_id: str, status: str = "completed", *, workflow: str = "", at: int = 0) -> str:
        keys = store.locate(run_id)
        record: dict[str, Any] = {"status": status, "workflow": workflow, "created_at": at, "live": 1}
        store.client.hset(keys["run"], mapping=record if status == "running" else record | {"ended_at": at})
        store.client.zadd(keys[f"runs:{status}"], {run_id: at})
        return run_id

    yield made, make
    made.close()


async def every_page(http: httpx.AsyncClient, path: str, **query: Any) -> list[httpx.Response]:
    answers = [await http.get(path, params=query)]
    while following := next_of(answers[-1]):
        answers.append(await http.get(path, params=query | {"cursor": following}))
        assert len(answers) < 300
    return answers


def next_of(answer: httpx.Response) -> str | None:
    assert answer.status_code == 200, answer.text
    link = answer.links.get("next", {}).get("url")
    return httpx.URL(link).params["cursor"] if link else answer.json().get("cursor")


def rows_of(answers: list[httpx.Response]) -> bytes:
    """Return all rows as bytes that can be compared."""
    rows = [row for each in answers for row in each.json().get("runs", each.json().get("handlers"))]
    for row in rows:
        row["error"] = None  # it depends on the time whether a worker is alive
    return json.dumps(rows).encode()


def served(runtime: Runtime) -> httpx.AsyncClient:
    server = WorkflowServer(runtime=runtime, authorize=mine_only)
    server.add_workflow(NAME, CLASS(timeout=None))
    return httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost")


QUERIES: list[dict[str, Any]] = [
    {},
    *({"limit": limit} for limit in (1, 2, 7, 50)),
    {"limit": 2, "status": "completed"},
    {"limit": 1, "status": "running"},
    {"limit": 3, "search": "theirs"},
    {"limit": 3, "search": "mine"},
    {"limit": 2, "workflow": "Secret"},
    {"limit": 2, "workflow": WORKFLOW, "workflow_name": NAME},
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("path", ["/handlers", "/console/runs"])
async def test_every_byte_of_a_list_is_what_it_would_be_without_the_runs_of_others(
    runtime: Runtime,
    keep: Keep,
    other_keep: tuple[Runtime, Keep],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    query: dict[str, Any],
) -> None:
    monkeypatch.setattr(run_list, "ASKED", 25)  # so that pages end at runs of other users
    make_mine(keep)
    make_theirs(keep)
    alone, keep_alone = other_keep
    make_mine(keep_alone)

    async with served(runtime) as http, served(alone) as http_alone:
        answers = await every_page(http, path, **query)
        expected = await every_page(http_alone, path, **query)

    assert rows_of(answers) == rows_of(expected)
    for answer in answers:
        cursor = next_of(answer) or ""
        seen = (
            json.dumps(answer.json() | {"cursor": None}).encode(),
            base64.urlsafe_b64decode(cursor),
            *(value for name, value in answer.headers.raw if name != b"link"),
        )
        asked = json.dumps(query)
        for part in seen:
            assert not any(each.encode() in part for each in THEIRS if each not in asked)
            assert b"theirs" not in part


async def test_a_search_of_contents_that_finds_nothing_takes_no_more_questions_than_a_page(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "ASKED", 25)
    make_theirs(keep)
    keep("mine", workflow=WORKFLOW, at=1)
    asked: list[str] = []

    def authorize(_: Principal, action: str, run_id: str | None) -> bool:
        asked.append(run_id or "")
        return run_id is None or run_id.startswith("mine")

    server = WorkflowServer(runtime=runtime, authorize=authorize)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost") as http:
        first = await http.get("/console/runs", params={"content": "nowhere"})
        assert 0 < len(asked) <= 26
        assert first.json()["runs"] == []
        await every_page(http, "/console/runs", content="nowhere")

    assert "mine" in asked


async def test_a_run_with_many_child_runs_of_others_takes_no_more_questions_than_a_page(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_rows, "ASKED", 25)
    asked: list[str] = []

    def authorize(_: Principal, action: str, run_id: str | None) -> bool:
        asked.append(run_id or "")
        return not (run_id or "").startswith("theirs")

    server = WorkflowServer(runtime=runtime, authorize=authorize)
    server.add_workflow("payment", console_flows.WORKFLOWS["payment"](timeout=None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://localhost") as http:
        parent = (await http.post("/workflows/payment/run-nowait", json={})).json()["run_id"]
        for n in range(60):
            record = {keep(f"theirs{n}"): pack({"st": "running"})}
            store_of(runtime).client.hset(runtime.store.locate(parent)["children"], mapping=record)
        asked.clear()
        found = (await http.get(f"/console/runs/{parent}")).json()

    assert (found["children"], found["has_more_children"]) == ([], True)
    assert len(asked) == 1 + 25


async def test_a_run_with_many_forks_of_others_has_a_family_that_ends(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "LOOKED", 25)
    keep("mine", workflow=WORKFLOW)
    forks = {keep(f"theirs{n}"): n for n in range(60)}
    store_of(runtime).client.zadd(runtime.store.locate("mine")["forks:mine"], forks)

    async with served(runtime) as http:
        found = (await http.get("/console/runs/mine/family")).json()

    assert [run["run_id"] for run in found["runs"]] == ["mine"]
    assert found["is_partial"] is True


async def test_the_list_of_parked_work_has_a_largest_page(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_routes, "FAILED", 10)
    for n in range(45):  # the oldest have ended
        run_id = keep(f"mine{n:02}", "completed" if n < 30 else "running", workflow=WORKFLOW)
        parked = {f"{WORKFLOW}|settle@|{run_id}|{n}": n}
        store_of(runtime).client.zadd(runtime.store.keys.in_shard(0, "parked"), parked)

    async with served(runtime) as http:
        found = (await http.get("/console/failures")).json()

    [group] = found["parked"]
    assert group["run_ids"] == [f"mine{n}" for n in range(30, 40)]
    assert found["is_partial"] is True


async def test_no_list_route_contains_anything_of_the_runs_of_others(runtime: Runtime, keep: Keep) -> None:
    make_theirs(keep)
    keep("mine", workflow=WORKFLOW)
    store_of(runtime).client.hset(runtime.store.locate("mine")["run"], "parent", "theirs0")

    async with served(runtime) as http:
        for path in ("/handlers", "/console/runs", "/workflows", "/console/workflows", "/health", "/ready"):
            answer = await http.get(path)
            assert b"theirs" not in answer.content, path
            assert b"Secret" not in answer.content, path
        assert (await http.get("/console/runs")).json()["runs"][0]["parent"] is None


def test_a_cursor_is_opened_by_every_server_of_its_deployment_and_by_no_other(
    runtime: Runtime, other_keep: tuple[Runtime, Keep]
) -> None:
    one, two = (runtime.portal.call(Cursors.of(runtime.store)) for _ in range(2))
    stranger = runtime.portal.call(Cursors.of(other_keep[0].store))
    sealed = one.sealed("1700000000000.theirs")
    assert sealed is not None

    assert two.opened(sealed) == "1700000000000.theirs"
    assert len(sealed) == len(one.sealed("1.x") or "")
    forged = [sealed[:-4], sealed[:10] + ("A" if sealed[10] != "A" else "B") + sealed[11:], "1700000000000.x", "", "é"]
    for cursor in forged:
        with pytest.raises(WorkflowRuntimeError, match="is not a cursor"):
            one.opened(cursor)
    with pytest.raises(WorkflowRuntimeError, match="is not a cursor"):
        stranger.opened(sealed)
