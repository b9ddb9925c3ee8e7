"""Durable timers: delayed retries, waiters that time out, steps that hang, runs that take too long."""

from __future__ import annotations

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import Returned
from umbel.orchestration.store.replies import Refusal

PLAN = plan_of(step("only", START, timeout_seconds=30.0))


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN).start(timeout_seconds=100)


def timers(run: DrivenRun) -> dict[str, float]:
    """Return this run's timers with their due instants."""
    return {name.decode(): due for name, due in run.content("timers") or () if run.run_id.encode() in name}


def test_a_delayed_retry_waits_for_its_timer(run: DrivenRun) -> None:
    work = run.claim("only")
    run.commit(work, failed(50))
    timer = f"retry|{run.run_id}|{work.work_id}"
    assert 40_000 < timers(run)[timer] - work.claimed_at < 60_000
    assert run.wake("retry", work.work_id) is None
    assert not run.dispatches

    run.make_due(f"retry|{work.work_id}")
    assert run.wake("retry", work.work_id) is not None

    again = run.claim("only")
    assert (again.attempt, again.failures, again.last_error) == (2, 1, failed().error)
    assert again.last_failed_at is not None
    assert again.first_attempt_at == work.first_attempt_at


def test_a_timer_fires_once(run: DrivenRun, store: Store) -> None:
    work = run.claim("only")
    run.commit(work, failed(50))
    run.make_due(f"retry|{work.work_id}")
    run.wake("retry", work.work_id)
    before = dump(store.client, store.settings.key_prefix)

    assert run.wake("retry", work.work_id) is None
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_short_retry_falls_due_by_redis_own_clock(run: DrivenRun) -> None:
    work = run.claim("only")
    run.commit(work, failed(0.001))

    eventually(lambda: run.wake("retry", work.work_id) is not None, "the retry is due after a millisecond")
    assert run.claim("only").attempt == 2


def test_a_waiter_that_runs_out_of_time_resumes_the_step_without_an_event(run: DrivenRun, store: Store) -> None:
    work = run.claim("only")
    run.commit(work, waiting(work, timeout_seconds=50))
    run.make_due(f"waiter|{work.work_id}|w")
    run.wake("waiter", work.work_id, "w")

    resumed = run.claim("only")

    assert resumed.answers == {"w": None}
    assert store.surroundings(run.run_id).waiters == ()


def test_an_answer_disarms_the_waiters_time_limit(run: DrivenRun) -> None:
    work = run.claim("only")
    run.commit(work, waiting(work, timeout_seconds=50))
    run.send(event("Answer"))

    assert [timer for timer in timers(run) if timer.startswith("waiter")] == []
    run.wake("waiter", work.work_id, "w")
    assert len(run.dispatches) == 1


def test_an_answer_after_the_time_limit_is_kept_and_not_delivered_to_it(run: DrivenRun, store: Store) -> None:
    work = run.claim("only")
    run.commit(work, waiting(work, timeout_seconds=50))
    run.make_due(f"waiter|{work.work_id}|w")
    run.wake("waiter", work.work_id, "w")
    run.send(event("Answer"))

    assert run.claim("only").answers == {"w": None}
    assert len(store.surroundings(run.run_id).inbox) == 1


# -- a step's own limit ------------------------------------------------------------------------------------------------


def test_a_claim_arms_the_steps_deadline_and_a_commit_disarms_it(run: DrivenRun, store: Store) -> None:
    work = run.claim("only")
    grace = store.settings.lease_seconds * 1000
    assert timers(run)[f"deadline|{run.run_id}|{work.work_id}"] == work.claimed_at + 30_000 + grace
    run.commit(work, failed(0))

    assert not any(timer.startswith("deadline") for timer in timers(run))


def test_a_hanging_attempt_is_fenced_and_the_next_claim_knows(run: DrivenRun) -> None:
    hanging = run.claim("only")
    assert run.wake("deadline", hanging.work_id) is None
    run.make_due(f"deadline|{hanging.work_id}")
    run.wake("deadline", hanging.work_id)

    assert run.try_commit(hanging, stop()) is Refusal.STALE
    late = run.claim("only", owner="o2")
    assert late.late
    run.commit(late, failed(0))
    assert not run.claim("only").late


def test_a_lost_or_released_claim_takes_its_deadline_with_it(run: DrivenRun) -> None:
    work = run.claim("only")
    run.leases.hand_back("o1", [Held.parse(work.member)], charge=False)

    assert not any(timer.startswith("deadline") for timer in timers(run))


def test_a_deadline_of_an_ended_run_goes_quietly(run: DrivenRun, store: Store) -> None:
    work = run.claim("only")
    run.make_due(f"deadline|{work.work_id}")
    store.finish(run.run_id, "cancelled", event("x"))

    assert run.wake("deadline", work.work_id) is None
    assert timers(run) == {}


# -- the run's limit ---------------------------------------------------------------------------------------------------


def test_a_run_times_out_when_its_timer_is_due_and_not_before(run: DrivenRun, store: Store) -> None:
    assert list(timers(run)) == [f"timeout|{run.run_id}"]
    assert store.finish(run.run_id, "timed_out", event("late"), if_due=True) is None
    assert run.status == "running"

    run.make_due("timeout")
    assert store.finish(run.run_id, "timed_out", event("late"), if_due=True) is not None
    assert run.status == "timed_out"
    assert timers(run) == {}


def test_a_run_without_a_limit_has_no_timer(store: Store) -> None:
    assert timers(DrivenRun(store, PLAN).start()) == {}


def test_a_run_that_ends_in_time_has_no_timer_left(run: DrivenRun) -> None:
    run.commit(run.claim("only"), stop())

    assert timers(run) == {}


def test_the_timer_of_a_deleted_run_is_forgotten(run: DrivenRun, store: Store) -> None:
    store.client.delete(run.keys["run"])

    assert store.finish(run.run_id, "timed_out", event("late"), if_due=True) is None
    assert timers(run) == {}


def test_work_timers_of_an_ended_run_go_when_they_fall_due(store: Store) -> None:
    plan = plan_of(step("one", START), step("two", START))
    run = DrivenRun(store, plan).start()
    one, two = run.claim("one"), run.claim("two")
    run.commit(one, failed(50))
    run.commit(two, waiting(two, timeout_seconds=50))
    store.finish(run.run_id, "cancelled", event("x"))
    run.make_due(f"retry|{one.work_id}")
    run.make_due(f"waiter|{two.work_id}|w")

    assert run.wake("retry", one.work_id) is None
    assert run.wake("waiter", two.work_id, "w") is None
    assert timers(run) == {}


def test_a_retry_timer_of_an_item_that_has_moved_on_does_nothing(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("only", START))).start()
    work = run.claim("only")
    run.commit(work, failed(50))
    run.make_due(f"retry|{work.work_id}")
    run.wake("retry", work.work_id)
    run.commit(run.claim("only"), Returned(None))
    store.client.zadd(run.keys["timers"], {f"retry|{run.run_id}|{work.work_id}": 1})

    applied = run.wake("retry", work.work_id)

    assert applied is not None
    assert applied.dispatches == ()


def test_a_wait_whose_time_ran_out_while_the_run_had_ended_begins_again_with_a_retry(
    run: DrivenRun, store: Store
) -> None:
    work = run.claim("only")
    run.commit(work, waiting(work, timeout_seconds=50))
    timer = f"waiter|{run.run_id}|{work.work_id}|w"
    store.finish(run.run_id, "cancelled", event("x"))
    run.make_due(f"waiter|{work.work_id}|w")
    assert run.leases.wake(run.run_id, timer, "waiter", work.work_id, "w") is None
    assert timer not in timers(run)

    store.revive(run.run_id, timeout_seconds=None)

    assert 40_000 < timers(run)[timer] - work.claimed_at < 60_000
