"""The list of sessions: its pages, and how much work one page may take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import umbel
from support.store.blocking import store_of
from umbel.orchestration.sessions import listing
from umbel.orchestration.sessions.names import state_id_for
from umbel.server import Principal
from umbel.tasks.client.runtime import Runtime

Asking = Callable[..., httpx.AsyncClient]

#: When the first of the sessions changed, in Redis ms: after all that tests before have made.
LATER = 4_000_000_000_000


@pytest.fixture
def make(runtime: Runtime) -> Any:
    """Make sessions without a run: name -> the instant of its last change."""
    store = store_of(runtime)
    made: dict[str, int] = {}

    def make(instants: dict[str, int]) -> None:
        with store.client.pipeline(transaction=False) as pipe:
            for name, at in instants.items():
                state_id = state_id_for(name)
                keys = runtime.store.locate(state_id)
                pipe.zadd(keys["sessions"], {state_id: at})
                pipe.hset(keys[f"session:{state_id}"], "source", "")
            pipe.execute()
        made.update(instants)

    yield make
    with store.client.pipeline(transaction=False) as pipe:
        for name in made:
            state_id = state_id_for(name)
            keys = runtime.store.locate(state_id)
            pipe.zrem(keys["sessions"], state_id)
            pipe.delete(keys[f"session:{state_id}"])
        pipe.execute()


def reads(runtime: Runtime) -> int:
    """How many sessions were read: each is asked whether it is closed."""
    return int(store_of(runtime).client.info("commandstats").get("cmdstat_hexists", {"calls": 0})["calls"])


async def pages(http: httpx.AsyncClient, **query: Any) -> list[list[str]]:
    """The names on each page, until no page follows."""
    found: list[list[str]] = []
    url: httpx.URL | str = httpx.URL("/sessions", params=query)
    while url:
        answer = await http.get(url)
        assert answer.status_code == 200, answer.text
        found.append([each["session_id"] for each in answer.json()["sessions"]])
        url = answer.links.get("next", {}).get("url", "")
        assert len(found) < 500
    return found


async def test_a_caller_who_may_see_no_session_costs_one_limited_page_and_reads_none(
    asking: Asking, runtime: Runtime, make: Any
) -> None:
    make({f"theirs {n}": LATER + n for n in range(listing.ASKED + 1_000)})
    asked: list[str | None] = []

    def authorize(_: Principal, action: str, run_id: str | None) -> bool:
        asked.append(run_id)
        return run_id is None

    http, before = asking(authorize=authorize), reads(runtime)
    answer = await http.get("/sessions?limit=1")

    assert answer.json() == {"sessions": []}
    assert "theirs" not in str(answer.headers)
    assert len(asked) <= listing.ASKED + 1
    assert reads(runtime) == before
    rest = await http.get(answer.links["next"]["url"])
    assert rest.json() == {"sessions": []}
    assert len(set(asked)) > listing.ASKED + 1_000


async def test_a_page_of_one_session_does_not_read_hundreds(
    client: httpx.AsyncClient, runtime: Runtime, make: Any
) -> None:
    make({f"many {n}": LATER + n for n in range(1_000)})
    before = reads(runtime)

    answer = await client.get("/sessions?limit=1")

    assert [each["session_id"] for each in answer.json()["sessions"]] == ["many 999"]
    assert reads(runtime) - before <= 2


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_the_pages_of_a_list_hold_each_session_once_in_order(
    client: httpx.AsyncClient, make: Any, limit: int
) -> None:
    # Many have changed at the same instant: a page can end between them.
    make({f"page {n:02}": LATER + n // 20 for n in range(60)})

    found = await pages(client, prefix="page ", limit=limit)

    names = [name for page in found for name in page]
    assert sorted(names) == [f"page {n:02}" for n in range(60)]
    assert [int(name[5:]) // 20 for name in names] == [2] * 20 + [1] * 20 + [0] * 20
    assert all(len(page) <= limit for page in found)


async def test_no_page_depends_on_the_sessions_that_its_reader_may_not_see(
    asking: Asking, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ASKED", 25)  # so that pages end at sessions of others
    make({f"mine. {n}": LATER + n for n in range(7)} | {f"theirs {n}": LATER + n for n in range(60)})

    def authorize(_: Principal, action: str, run_id: str | None) -> bool:
        return run_id is None or run_id.startswith("mine. ")

    http = asking(authorize=authorize)
    for query in ({}, {"limit": 2}, {"prefix": "mine"}, {"prefix": "theirs"}, {"status": "idle", "limit": 3}):
        names = [name for page in await pages(http, **query) for name in page]
        expected = [] if query.get("prefix") == "theirs" else [f"mine. {n}" for n in reversed(range(7))]
        assert names == expected, query


async def test_programs_and_commands_list_sessions_beyond_a_page(
    runtime: Runtime, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "REACH", 50)
    monkeypatch.setattr(listing, "MAX_LIMIT", 20)
    make({f"old {n:02}": LATER + n for n in range(30)} | {f"new {n}": LATER + 100 + n for n in range(120)})

    found = umbel.sessions("old", limit=1_000)

    assert [each.name for each in found] == [f"old {n:02}" for n in reversed(range(30))]
    assert len(umbel.sessions(limit=130)) == 130


@pytest.mark.parametrize("cursor", ["x", "4000000000000.a", json.dumps({})])
async def test_a_cursor_that_no_page_has_returned_is_refused(client: httpx.AsyncClient, cursor: str) -> None:
    answer = await client.get("/sessions", params={"cursor": cursor})

    assert answer.status_code == 400
    assert "is not a cursor" in answer.text
