"""At most N runs of a workflow execute at a time, in the order of their starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ResponseError

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_sweep
from support.store.checks import mutant_store
from support.store.driving import DrivenRun
from support.store.limited_runs import (
    PLAN,
    Crowd,
    completes,
    fails,
    index_keys,
    is_cancelled,
    left_behind,
    make_checks_due,
    times_out,
)
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings


def test_as_many_runs_begin_as_the_limit_admits_and_the_others_follow_in_order_of_start(crowd: Crowd) -> None:
    ids = [f"run{n}" for n in (3, 1, 4, 0, 5, 2)]
    assert len({crowd.store.locate(run_id).shard for run_id in ids}) == 2
    runs = [crowd.start(run_id, limit=2) for run_id in ids]

    assert crowd.begun() == ids[:2]
    assert crowd.running() == sorted(ids[:2])

    crowd.cancel(runs[1])
    assert crowd.begun() == [ids[2]]
    crowd.cancel(runs[0])
    assert crowd.begun() == [ids[3]]
    assert crowd.running() == sorted(ids[2:4])


def test_a_run_that_waits_is_running_and_nothing_of_it_is_dispatched(crowd: Crowd) -> None:
    crowd.start()
    run = crowd.start(timeout_seconds=50)

    assert run.status == "running"
    assert crowd.store.run(run.run_id).waits_for_admission
    assert not run.dispatches
    assert run.content("work") is None
    assert not any(run.run_id.encode() in member for member, _ in run.content("timers") or ())


def test_the_timeout_counts_from_the_admission(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start(timeout_seconds=50)
    seconds, micros = crowd.store.client.time()
    crowd.cancel(first)

    due_at = crowd.store.client.zscore(run.keys["timers"], f"timeout|{run.run_id}")
    assert due_at is not None
    assert due_at >= seconds * 1000 + micros // 1000 + 50_000
    assert not crowd.store.run(run.run_id).waits_for_admission


@pytest.mark.parametrize("ends", [completes, fails, is_cancelled, times_out])
def test_however_a_run_ends_the_next_one_begins_at_once(crowd: Crowd, ends: Callable[[Crowd, DrivenRun], None]) -> None:
    first, second = crowd.start(timeout_seconds=100), crowd.start()

    ends(crowd, first)

    assert first.status != "running"
    assert crowd.running() == [second.run_id]
    assert [dispatch.run_id for dispatch in crowd.sent] == [first.run_id, second.run_id]
    assert not any(key.endswith("leaving") for key in left_behind(crowd.store))


def test_when_all_have_ended_nothing_is_left(crowd: Crowd) -> None:
    runs = [crowd.start(limit=2) for _ in range(5)]

    for run in runs:
        crowd.cancel(run)

    assert left_behind(crowd.store) == {}


def test_a_waiting_run_that_is_cancelled_leaves_the_queue(crowd: Crowd) -> None:
    first, second, third = (crowd.start() for _ in range(3))

    crowd.cancel(second)
    for key in index_keys(crowd.store, "waiting:W"):
        assert crowd.store.client.zscore(key, crowd.admission(second).member) is None
    crowd.cancel(first)

    assert crowd.running() == [third.run_id]
    assert crowd.begun() == [first.run_id, third.run_id]


def test_the_newest_limit_counts(crowd: Crowd) -> None:
    first, second, third = (crowd.start(limit=1) for _ in range(3))

    fourth = crowd.start(limit=3)
    assert crowd.begun() == [first.run_id, second.run_id, third.run_id]

    fifth = crowd.start(limit=1)
    crowd.sweep()  # waiting runs ask again, but do not restore their own limit
    for run in (first, second):
        crowd.cancel(run)
        assert crowd.running() == sorted(
            {second.run_id, third.run_id} - {run.run_id} if run is first else {third.run_id}
        )
    crowd.cancel(third)
    assert crowd.running() == [fourth.run_id]
    crowd.cancel(fourth)
    assert crowd.running() == [fifth.run_id]


def test_an_older_run_that_asks_late_does_not_bring_its_limit_back(crowd: Crowd) -> None:
    first = crowd.start(limit=1)
    late = crowd.start(limit=7, asks=False)
    crowd.start(limit=1)
    limits = next(key for key in index_keys(crowd.store, "limits") if crowd.store.client.exists(key))
    crowd.store.client.hset(limits, "W", f"1 {crowd.store.run(late.run_id).created_at + 1}")

    crowd.quota.take(late.run_id)

    assert crowd.running() == [first.run_id]


def test_runs_without_a_limit_are_neither_counted_nor_held_up(crowd: Crowd) -> None:
    limited = [crowd.start() for _ in range(2)]
    free = crowd.start(limit=None)

    assert crowd.running() == sorted([limited[0].run_id, free.run_id])
    crowd.cancel(free)
    assert crowd.running() == [limited[0].run_id]
    assert crowd.store.client.hmget(free.keys["run"], "ticket", "limit", "unbegun") == [None] * 3


def test_each_workflow_has_a_limit_of_its_own(store: Store) -> None:
    crowds = [Crowd(store, replace(PLAN, workflow=name)) for name in ("W", "W:waiting", "V|1|W")]

    runs = [[crowd.start() for _ in range(2)] for crowd in crowds]

    assert crowds[0].running() == sorted(first.run_id for first, _ in runs)
    for crowd, (first, _) in zip(crowds, runs, strict=True):
        crowd.cancel(first)
    assert crowds[0].running() == sorted(second.run_id for _, second in runs)


# -- the sweep ---------------------------------------------------------------------------------------------------------


def test_an_admitted_run_that_has_vanished_frees_its_slot(crowd: Crowd) -> None:
    first, second = crowd.start(), crowd.start()
    crowd.store.client.delete(first.keys["run"])

    crowd.sweep()

    assert crowd.running() == [second.run_id]


def test_a_waiting_run_that_has_vanished_is_forgotten(crowd: Crowd) -> None:
    first, second, third = (crowd.start() for _ in range(3))
    crowd.store.client.delete(second.keys["run"])
    crowd.sweep()

    crowd.cancel(first)

    assert crowd.running() == [third.run_id]
    crowd.cancel(third)
    assert left_behind(crowd.store) == {}


def test_a_run_that_has_waited_long_is_checked_less_often(crowd: Crowd) -> None:
    crowd.start()
    run = crowd.start()
    look_at = partial(crowd.store.client.zscore, run.keys["awaiting_admission"], run.run_id)
    settings = crowd.store.settings
    started_at = crowd.store.run(run.run_id).created_at
    first_look = look_at()
    assert first_look == pytest.approx(started_at + settings.redispatch_seconds * 1000, abs=2_000)

    for minutes in (20, 40, 10_000):
        now = started_at + minutes * 60_000
        crowd.quota.look_at(run.run_id, now)
        pause = min(minutes * 60, settings.redispatch_max_seconds) * 1000
        assert look_at() == pytest.approx(now + pause, abs=2_000)


def test_an_admitted_run_that_is_still_running_is_left_alone(crowd: Crowd) -> None:
    run = crowd.start()
    crowd.begun()
    make_checks_due(crowd.store)
    admitted = next(key for key in index_keys(crowd.store, "admitted:W") if crowd.store.client.exists(key))

    blocking_sweep(crowd.store, crowd, lambda _: 0).sweep(everything=True)

    assert crowd.begun() == []
    [(_, look)] = crowd.store.client.zrange(admitted, 0, -1, withscores=True)
    assert look > crowd.store.run(run.run_id).created_at + crowd.store.settings.redispatch_seconds * 1000


# -- every guard is needed ---------------------------------------------------------------------------------------------

GUARDS = [
    (
        "start",
        "not call.awaits_admission and slots.take",
        "slots.take",
        test_a_run_that_waits_is_running_and_nothing_of_it_is_dispatched,
    ),
    ("admit", "<= A.said_at", "<= A.since", test_an_older_run_that_asks_late_does_not_bring_its_limit_back),
    ("leave", "redis.call('ZREM', K.waiting, A.ticket)", "", test_a_waiting_run_that_is_cancelled_leaves_the_queue),
]


@pytest.mark.parametrize("guard", GUARDS, ids=[f"{verb}: {text}" for verb, text, *_ in GUARDS])
def test_a_missing_guard_is_noticed(client: Client, settings: Settings, guard: tuple[str, str, str, Any]) -> None:
    verb, text, without, scenario = guard
    with pytest.raises((AssertionError, ResponseError)):
        scenario(Crowd(mutant_store(client, settings, {verb: (text, without)})))
