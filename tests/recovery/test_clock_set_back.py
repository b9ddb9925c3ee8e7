"""Redis's clock is set back by hours: nothing waits until the clock catches up, and nothing is dispatched twice."""

from __future__ import annotations

import json

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches, blocking_sweep
from support.store.driving import DrivenRun, event, failed, plan_of, step, waiting
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=100))

HOURS = 7_200_000
TIMED = ("timers", "leases", "unclaimed", "awaiting_admission")


def now_of(store: Store) -> int:
    seconds, micros = store.client.time()
    return int(seconds * 1000 + micros // 1000)


def set_clock_back(store: Store, milliseconds: int = HOURS) -> None:
    """Make all records, and the last sweep, look as if made by a clock that was ahead by this much."""
    client = store.client
    for shard in range(store.settings.shards):
        for name in TIMED:
            key = store.keys.in_shard(shard, name)
            for member, at in client.zrange(key, 0, -1, withscores=True):
                client.zadd(key, {member: at + milliseconds})
        client.set(store.keys.in_shard(shard, "swept_at"), now_of(store) + milliseconds)


@pytest.fixture
def dispatches() -> SentDispatches:
    return SentDispatches()


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN).start()


def sweep(store: Store, dispatches: SentDispatches, backlog: int = 0) -> int:
    done: int = blocking_sweep(store, dispatches, lambda _: backlog).sweep()
    return done


def due_in(run: DrivenRun, member: str) -> float:
    """Return the seconds until a timer of the run is due."""
    kind, _, rest = member.partition("|")
    return (run.store.client.zscore(run.keys["timers"], f"{kind}|{run.run_id}|{rest}") - now_of(run.store)) / 1000


def test_a_timer_fires_when_its_time_is_over_whatever_the_clock_says(
    run: DrivenRun, store: Store, dispatches: SentDispatches
) -> None:
    work = run.claim("begin")
    run.commit(work, failed(100))
    run.make_due(f"retry|{work.work_id}")
    store.client.zadd(run.keys["timers"], {f"retry|{run.run_id}|{work.work_id}": now_of(store) - 1}, xx=True)
    set_clock_back(store)

    sweep(store, dispatches)

    assert [dispatch.work_id for dispatch in dispatches.sent] == [work.work_id]


def test_a_timer_that_is_not_due_yet_is_as_far_away_as_before(
    run: DrivenRun, store: Store, dispatches: SentDispatches
) -> None:
    work = run.claim("begin")
    run.commit(work, waiting(work, timeout_seconds=900))
    set_clock_back(store)

    assert sweep(store, dispatches) == 0

    assert due_in(run, f"waiter|{work.work_id}|w") == pytest.approx(900, abs=30)


def test_a_timer_that_is_set_before_the_sweep_has_noticed_is_not_early(
    run: DrivenRun, store: Store, dispatches: SentDispatches
) -> None:
    work = run.claim("begin")
    set_clock_back(store)
    run.commit(work, failed(900))
    sweep(store, dispatches)

    assert due_in(run, f"retry|{work.work_id}") == pytest.approx(900, abs=30)


def test_the_sweep_goes_on_at_once(run: DrivenRun, store: Store, dispatches: SentDispatches) -> None:
    run.commit(run.claim("begin"), FannedOut((event("A"),)))
    run.claim("work", owner="dies")
    set_clock_back(store)
    store.client.zadd(run.keys["leases"], {"dies": 1})

    assert sweep(store, dispatches) == 1


def test_the_lease_of_a_process_that_died_runs_out_as_soon_as_ever(
    run: DrivenRun, store: Store, dispatches: SentDispatches
) -> None:
    run.claim("begin", owner="dies")
    set_clock_back(store)

    sweep(store, dispatches)

    left = store.client.zscore(run.keys["leases"], "dies") - now_of(store)
    assert left <= store.settings.lease_seconds * 1000


def test_what_waits_in_a_long_queue_is_not_dispatched_again(
    run: DrivenRun, store: Store, dispatches: SentDispatches
) -> None:
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 20))
    store.client.hset(run.keys["watermark"], "umbel/0", now_of(store) + HOURS)
    set_clock_back(store)
    for member, _ in run.content("unclaimed"):
        store.client.zadd(run.keys["unclaimed"], {member: now_of(store) - 1})

    assert sweep(store, dispatches, backlog=20) == 0
    assert dispatches.sent == []


def test_a_claim_says_again_what_a_queue_has_passed_over(run: DrivenRun, store: Store) -> None:
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 2))
    store.client.hset(run.keys["watermark"], "umbel/0", now_of(store) + HOURS)

    run.claim("work")

    assert int(run.content("watermark")[b"umbel/0"]) <= now_of(store)


async def test_a_worker_that_was_last_seen_in_the_future_is_not_taken_to_live(store: Store) -> None:
    about = {"host": "h", "pid": 1, "workflows": [], "queues": [], "seen_at": now_of(store) + HOURS}
    store.client.hset(store.keys.in_shard(0, "workers"), "one", json.dumps(about))

    assert [worker.is_live for worker in await seen_workers(store.wrapped)] == [False]
