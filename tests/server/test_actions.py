"""The actions of the `authorize` hook: the page lists all of them, and its example allows users only what is theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import httpx
import pytest
from starlette.routing import Route

from support.docs.pages import blocks, table
from support.http.flows import make_server
from umbel.server import Principal, WorkflowServer
from umbel.server.http.access import DEPLOYMENT, Action

PAGE = "docs/guides/http-server.md"
HEADINGS = ("action", "allows", "`run_id`")

Asking = Callable[..., httpx.AsyncClient]
Hook = Callable[[Principal, str, str | None], bool]


@pytest.fixture(scope="module")
def own_runs() -> Hook:
    """The hook as the page shows it."""
    [block] = [block for block in blocks(PAGE) if "def own_runs" in block.text]
    names: dict[str, Any] = {"Principal": Principal, "WorkflowServer": lambda **_: None}
    exec(compile(block.text, str(block), "exec"), names)
    hook: Hook = names["own_runs"]
    return hook


def routes_of(server: WorkflowServer) -> list[tuple[str, str, str]]:
    """Return (action, method, path with bob's names) of every route."""
    found = []
    for route in server.app.routes:
        assert isinstance(route, Route)
        path = route.path
        values = {"handler_id": "bob:1", "session_id": "bob:1", "run_id": "bob~3A1.x", "seq": "1", "point": "1"}
        for name in route.param_convertors:
            for spelled in (name, f"{name}:path", f"{name}:int"):
                path = path.replace(f"{{{spelled}}}", values.get(name, "x"))
        assert "{" not in path
        found += [(route.endpoint.umbel_action, method, path) for method in sorted(route.methods or ())]  # type: ignore[attr-defined]
    return found


def test_the_page_lists_every_action_and_says_which_concern_everyone() -> None:
    rows = table(PAGE, *HEADINGS)

    assert list(rows) == [f"`{action}`" for action in get_args(Action)]
    assert {name.strip("`") for name, (allows, _) in rows.items() if "**" in allows} == DEPLOYMENT


def test_every_action_is_declared_by_a_route(runtime: Any) -> None:
    declared = {action for action, _, _ in routes_of(make_server(runtime))}

    assert declared == set(get_args(Action))


async def test_the_hook_of_the_page_lets_nobody_near_the_runs_of_others_or_the_deployment(
    runtime: Any, asking: Asking, own_runs: Hook
) -> None:
    server = make_server(runtime, authorize=own_runs)
    http = asking(server)
    for user in ("mallory", ""):
        for action, method, path in routes_of(server):
            if "bob" in path or action in DEPLOYMENT:
                answer = await http.request(method, path, headers={"X-Forwarded-User": user})
                assert answer.status_code == 403, (user, method, path)
        for body in ({"handler_id": "bob:1"}, {"session_id": "bob:1"}):
            answer = await http.post("/workflows/greet/run", json=body, headers={"X-Forwarded-User": user})
            assert answer.status_code == 403


async def test_the_hook_of_the_page_lets_users_start_and_read_their_own_runs(asking: Asking, own_runs: Hook) -> None:
    http = asking(authorize=own_runs)
    http.headers["X-Forwarded-User"] = "ann"

    assert (await http.post("/workflows/greet/run", json={"handler_id": "ann:1"})).status_code == 200
    assert "ann:1" in [each["handler_id"] for each in (await http.get("/handlers")).json()["handlers"]]
    assert (await http.get("/events/ann:1?after_sequence=-1")).status_code == 200
    assert (await http.get("/health")).status_code == 200
    assert (await http.post("/handlers/ann:1/cancel?purge=true")).status_code == 200
