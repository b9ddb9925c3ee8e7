"""A run that waits for admission: what it receives meanwhile, and revived and restored runs."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from support.store.checks import mutant_store
from support.store.driving import LIMITS, DrivenRun, event, failed, stop, waiting
from support.store.limited_runs import (
    PLAN,
    Crowd,
    left_behind,
)
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.snapshots.restore import begin_from
from umbel.orchestration.snapshots.take import take_snapshot
from umbel.orchestration.store.replies import Applied


def test_what_is_sent_to_a_waiting_run_is_kept_until_it_begins(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start()

    for send_id in ("s1", "s1", "s2"):
        assert run.send(event("A"), send_id=send_id) == Applied()
    assert run.send(event("Answer")) == Applied()

    crowd.cancel(first)
    assert [dispatch.step for dispatch in crowd.sent if dispatch.run_id == run.run_id] == ["begin", "work"]
    assert len(crowd.store.surroundings(run.run_id).inbox) == 1
    assert crowd.store.run(run.run_id).live == 3


def test_a_repeated_start_does_not_begin_a_waiting_run(crowd: Crowd) -> None:
    crowd.start()
    run = crowd.start()

    again = crowd.start(run.run_id)

    assert not again.dispatches
    assert crowd.store.run(run.run_id).waits_for_admission


def test_a_late_request_admits_no_run_that_has_ended(crowd: Crowd) -> None:
    first, second = crowd.start(), crowd.start()
    late = crowd.admission(second)
    crowd.cancel(second)

    crowd.quota.admit(late, 1, said_at=1)  # it was in flight all the time
    third = crowd.start()
    crowd.cancel(first)

    assert crowd.running() == [third.run_id]
    crowd.cancel(third)
    assert left_behind(crowd.store) == {}


# -- revived runs ------------------------------------------------------------------------------------------------------


def test_a_revived_run_waits_for_admission_again(crowd: Crowd) -> None:
    first = crowd.start()
    crowd.commit(first, failed())
    second = crowd.start()
    old = crowd.admission(first)
    assert crowd.begun() == [first.run_id, second.run_id]

    assert crowd.store.revive(first.run_id, timeout_seconds=100) == Applied()
    crowd.quota.take(first.run_id)
    assert crowd.running() == [second.run_id]
    assert crowd.store.client.zscore(first.keys["timers"], f"timeout|{first.run_id}") is None

    crowd.commit(second, stop())
    assert crowd.running() == [first.run_id]
    assert crowd.store.client.zscore(first.keys["timers"], f"timeout|{first.run_id}") is not None
    third = crowd.start()
    crowd.quota.release(old)  # a slow process releases the first admission of the run
    assert crowd.running() == [first.run_id]
    crowd.commit(first, stop(2))
    assert first.result == 2
    assert crowd.running() == [third.run_id]


def test_a_revived_run_asks_by_itself(crowd: Crowd) -> None:
    run = crowd.start()
    crowd.commit(run, failed())
    crowd.store.revive(run.run_id, timeout_seconds=None)

    crowd.sweep()

    assert crowd.running() == [run.run_id]


def test_a_run_that_never_began_can_be_revived(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start()
    crowd.cancel(run)

    for _ in range(2):
        assert crowd.store.revive(run.run_id, timeout_seconds=None) == Applied()
        crowd.quota.take(run.run_id)
        assert crowd.store.run(run.run_id).waits_for_admission
        crowd.cancel(run)
    crowd.store.revive(run.run_id, timeout_seconds=None)
    crowd.quota.take(run.run_id)
    crowd.cancel(first)

    crowd.commit(run, stop(1))
    assert run.result == 1


def test_an_admission_of_an_earlier_life_begins_nothing(crowd: Crowd) -> None:
    first, run = crowd.start(), crowd.start()
    old = crowd.admission(run)
    crowd.cancel(run)
    crowd.store.revive(run.run_id, timeout_seconds=None)

    assert not crowd.quota.begin(old)
    assert crowd.running() == [first.run_id]


def test_what_wakes_in_a_waiting_run_continues_when_it_begins(crowd: Crowd) -> None:
    run = crowd.start()
    crowd.cancel(run)
    crowd.store.revive(run.run_id, timeout_seconds=None)
    crowd.quota.take(run.run_id)
    crowd.dispatched(run)
    work = run.claim("begin")
    crowd.quota.pass_on(run.commit(work, waiting(work, timeout_seconds=100)).leaving)
    crowd.cancel(run)
    other = crowd.start()
    crowd.store.revive(run.run_id, timeout_seconds=None)
    crowd.quota.take(run.run_id)
    crowd.begun()

    run.make_due(f"waiter|{work.work_id}|w")
    assert run.wake("waiter", work.work_id, "w") == Applied(plan=PLAN.digest)
    assert crowd.begun() == []
    crowd.cancel(other)

    assert crowd.begun() == [run.run_id]


def test_a_restored_run_waits_for_admission_with_all_its_work(crowd: Crowd) -> None:
    source = crowd.start(limit=None)
    work = source.claim("begin")
    source.commit(work, waiting(work, timeout_seconds=100))
    source.send(event("A"))
    saved = crowd.store.call(take_snapshot, crowd.store, source.run_id)
    first, run = crowd.start(), DrivenRun(crowd.store, PLAN)
    given: dict[str, Any] = {"nonce": "n", "timeout_seconds": 9, "options": {}, "num_concurrent_runs": 1}
    assert crowd.store.call(begin_from, crowd.store, run.run_id, PLAN, saved, (), LIMITS, **given) == Applied()
    crowd.quota.take(run.run_id)

    run.make_due(f"waiter|{work.work_id}|w")
    assert run.wake("waiter", work.work_id, "w") == Applied(plan=PLAN.digest)
    assert crowd.begun() == [first.run_id]
    crowd.cancel(first)

    assert sorted(dispatch.step for dispatch in crowd.sent) == ["begin", "work"]
    assert crowd.begun() == [run.run_id]


# -- every guard is needed ---------------------------------------------------------------------------------------------

GUARDS = [
    (
        "send",
        "call.awaits_admission = redis.call('HGET', K.run, 'unbegun')",
        "",
        test_what_is_sent_to_a_waiting_run_is_kept_until_it_begins,
    ),
    ("wake", "call.awaits_admission = meta[2]", "", test_what_wakes_in_a_waiting_run_continues_when_it_begins),
    ("begin", "or meta[2] ~= A.ticket", "", test_an_admission_of_an_earlier_life_begins_nothing),
    ("begin", "meta[1] ~= 'running' or", "", test_a_late_request_admits_no_run_that_has_ended),
    ("revive", "(has_begun or not limit)", "true", test_a_run_that_never_began_can_be_revived),
]


@pytest.mark.parametrize("guard", GUARDS, ids=[f"{verb}: {text}" for verb, text, *_ in GUARDS])
def test_a_missing_guard_is_noticed(client: Client, settings: Settings, guard: tuple[str, str, str, Any]) -> None:
    verb, text, without, scenario = guard
    with pytest.raises((AssertionError, ResponseError)):
        scenario(Crowd(mutant_store(client, settings, {verb: (text, without)})))
