"""Pages of the run list."""

from __future__ import annotations

import random

import pytest

from support.console.driving import Keep
from support.store.blocking import store_of
from umbel.errors import WorkflowRuntimeError
from umbel.orchestration.inspection import run_list
from umbel.orchestration.inspection.run_list import RunQuery, list_runs
from umbel.orchestration.model.commands import RUN_STATUSES
from umbel.tasks.client.runtime import Runtime


def walked(runtime: Runtime, **query: object) -> list[str]:
    """Return the ids of all pages, in order."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = runtime.portal.call(list_runs(runtime.store, RunQuery(cursor=cursor, **query)))  # type: ignore[arg-type]
        ids += [run.run_id for run in page.runs]
        assert page.cursor is None or page.cursor != cursor, "the next page is the same"
        cursor = page.cursor
        if cursor is None:
            return ids


def test_pages_go_from_the_newest_to_the_oldest_and_lose_nothing(runtime: Runtime, keep: Keep) -> None:
    instants = [random.Random(7).randrange(1_000, 1_040) for _ in range(90)]  # many share the same instant
    made = [keep(f"run{n}", random.Random(n).choice(RUN_STATUSES), at=at) for n, at in enumerate(instants)]
    ids = walked(runtime, limit=7)
    assert sorted(ids) == sorted(made)
    found = [instants[int(run_id.removeprefix("run"))] for run_id in ids]
    assert found == sorted(instants, reverse=True)


def test_a_filter_that_fits_rarely_finds_all_that_fit(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "STRETCH", 3)  # so that many stretches are read
    for n in range(200):
        keep(f"run{n:03}", workflow="shop.Order" if n % 40 else "shop.Refund", at=1_000 + n // 3)
    wanted = ["run160", "run120", "run080", "run040", "run000"]
    assert walked(runtime, workflows=("shop.Refund",), limit=2) == wanted
    assert walked(runtime, search="REFUND", limit=50) == wanted
    assert walked(runtime, search="run16", limit=3) == [f"run16{n}" for n in reversed(range(10))]
    assert walked(runtime, search="no such run") == []


def test_a_page_ends_where_enough_was_looked_through_and_the_next_continues(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "STRETCH", 2)
    monkeypatch.setattr(run_list, "REACH", 20)
    for n in range(120):
        keep(f"run{n:03}", at=1_000 + n)
    first = runtime.portal.call(list_runs(runtime.store, RunQuery(search="run000")))
    assert first.runs == ()
    assert first.cursor is not None
    assert walked(runtime, search="run000") == ["run000"]


def test_counts_are_of_all_runs_whatever_the_filter(runtime: Runtime, keep: Keep) -> None:
    for n in range(5):
        keep(f"a{n}", "failed")
    keep("b", "running")
    page = runtime.portal.call(list_runs(runtime.store, RunQuery(statuses=("running",))))
    assert [run.run_id for run in page.runs] == ["b"]
    assert page.counts == {"running": 1, "completed": 0, "failed": 5, "cancelled": 0, "timed_out": 0}


def test_a_run_whose_retention_is_over_is_not_listed(runtime: Runtime, keep: Keep) -> None:
    keep("gone")
    keep("kept")
    store_of(runtime).client.delete(runtime.store.locate("gone")["run"])
    assert walked(runtime) == ["kept"]


@pytest.mark.parametrize(
    ("query", "what"),
    [
        (RunQuery(statuses=("finished",)), "'finished'"),
        (RunQuery(limit=0), "not 0"),
        (RunQuery(limit=100_000), "not 100000"),
        (RunQuery(cursor="yesterday"), "'yesterday' is not a cursor"),
        (RunQuery(cursor="²5.x"), "is not a cursor"),
    ],
)
def test_a_malformed_request_is_refused_with_the_reason(runtime: Runtime, query: RunQuery, what: str) -> None:
    with pytest.raises(WorkflowRuntimeError, match=what):
        runtime.portal.call(list_runs(runtime.store, query))


def test_ten_thousand_runs_are_looked_through_in_a_few_exchanges(runtime: Runtime, keep: Keep) -> None:
    # `python -m benchmarks.run_list` measures the time; this test checks that the commands do not grow with the runs.
    store = store_of(runtime)
    pipe = store.client.pipeline(transaction=False)
    for n in range(10_000):
        keys = store.locate(f"run{n}")
        pipe.hset(keys["run"], mapping={"status": "completed", "workflow": "shop.Order", "created_at": n, "live": 0})
        pipe.zadd(keys["runs:completed"], {f"run{n}": n})
    pipe.execute()

    def asked() -> int:
        counts = store.client.info("commandstats")
        return sum(
            each["calls"]
            for name, each in counts.items()
            if name not in ("cmdstat_hmget", "cmdstat_xrange", "cmdstat_hget")
        )  # counted in scripts

    runtime.portal.call(runtime.store.command("look at the deployment", "PING"))  # the commands of a new connection
    before = asked()
    assert runtime.portal.call(list_runs(runtime.store, RunQuery(search="nowhere"))).runs == ()
    assert asked() - before < 500


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("workflows", [(), ("shop.Order",)])
def test_pages_may_end_between_runs_of_one_instant(
    runtime: Runtime, keep: Keep, monkeypatch: pytest.MonkeyPatch, limit: int, workflows: tuple[str, ...]
) -> None:
    monkeypatch.setattr(run_list, "STRETCH", 2)
    monkeypatch.setattr(run_list, "REACH", 200)
    made = [keep(f"run{n}", at=1_000) for n in range(150)]  # several of them in each shard

    ids = walked(runtime, limit=limit, workflows=workflows)

    assert sorted(ids) == sorted(made)
