"""Work that is parked because its code is missing, and runs that are revived."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from support.store.leases import PLAN, run_with_three_items
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import Returned, Work
from umbel.orchestration.store.replies import Refusal


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return run_with_three_items(store)


# -- parked work -------------------------------------------------------------------------------------------------------


def test_work_without_code_is_parked_until_a_process_has_the_code(run: DrivenRun) -> None:
    dispatch = run.dispatches[0]
    assert run.leases.park(run.run_id, dispatch.work_id, "W", "work")
    assert run.ask(dispatch) is Refusal.STALE
    assert run.leases.unpark("W", ["other"]) == []
    assert run.leases.unpark("X", ["work"]) == []

    [(run_id, applied)] = run.leases.unpark("W", ["begin", "work"])

    assert run_id == run.run_id
    assert [dispatch.dispatch_no for dispatch in applied.dispatches] == [2]
    assert isinstance(run.ask(applied.dispatches[0]), Work)
    assert run.content("parked") is None


def test_a_claim_can_be_parked_only_by_its_holder(run: DrivenRun) -> None:
    mine, other = run.claim("work"), run.claim("work")

    assert not run.leases.park(run.run_id, mine.work_id, "W", "work")
    assert not run.leases.park(run.run_id, mine.work_id, "W", "work", other)
    assert run.leases.park(run.run_id, mine.work_id, "W", "work", mine)
    assert run.content("owner:o1") == [other.member.encode()]
    assert run.try_commit(mine, stop()) is Refusal.STALE
    [(_, applied)] = run.leases.unpark("W", ["work"])
    again = run.ask(applied.dispatches[0])
    assert isinstance(again, Work)
    assert (again.attempt, again.suspicion) == (1, 0)


def test_parking_is_idempotent_and_ends_with_the_run(run: DrivenRun, store: Store) -> None:
    dispatch = run.dispatches[0]
    run.leases.park(run.run_id, dispatch.work_id, "W", "work")
    before = dump(store.client, store.settings.key_prefix)
    run.leases.park(run.run_id, dispatch.work_id, "W", "work")
    assert dump(store.client, store.settings.key_prefix) == before

    store.finish(run.run_id, "cancelled", event("x"))
    assert not run.leases.park(run.run_id, run.dispatches[1].work_id, "W", "work")
    [(_, applied)] = run.leases.unpark("W", ["work"])
    assert applied.dispatches == ()
    assert run.content("parked") is None


def test_hostile_names_park_and_unpark_only_themselves(store: Store) -> None:
    run = DrivenRun(store, replace(plan_of(step("begin?", START)), workflow="W[a]*")).start()
    assert run.leases.park(run.run_id, run.dispatches[0].work_id, "W[a]*", "begin?")

    assert run.leases.unpark("W*", ["begin?"]) == []
    assert run.leases.unpark("W[a]*", ["begin*"]) == []
    assert len(run.leases.unpark("W[a]*", ["begin?"])) == 1


def test_work_is_parked_under_no_name_but_its_own(run: DrivenRun) -> None:
    dispatch = run.dispatches[0]

    assert not run.leases.park(run.run_id, dispatch.work_id, "Forged", dispatch.step)
    assert not run.leases.park(run.run_id, dispatch.work_id, run.plan.workflow, "forged")

    assert isinstance(run.ask(dispatch), Work)


# -- revival -----------------------------------------------------------------------------------------------------------


def test_a_failed_run_is_revived_with_its_failed_and_interrupted_work(run: DrivenRun, store: Store) -> None:
    failing, running = run.claim("work"), run.claim("work")
    run.commit(failing, failed())
    assert run.status == "failed"

    reply = run.heard(store.revive(run.run_id, timeout_seconds=10))

    assert run.status == "running"
    assert len(reply.dispatches) == 3
    assert run.try_commit(running, stop()) is Refusal.STALE
    again = run.ask(next(dispatch for dispatch in reply.dispatches if dispatch.work_id == failing.work_id))
    assert isinstance(again, Work)
    assert (again.attempt, again.failures, again.last_error) == (1, 0, None)
    assert again.first_attempt_at == again.claimed_at
    run.commit(again, stop("after all"))
    assert run.result == "after all"


def test_a_revived_run_no_longer_expires(run: DrivenRun, store: Store) -> None:
    run.flush(run.claim("work"), 1, ("x", event("Z")))
    store.finish(run.run_id, "cancelled", event("x"))
    run.leases.retire(run.run_id)
    store.revive(run.run_id, timeout_seconds=None)

    keys = [key for key in store.client.scan_iter(match=f"{run.keys['run']}*") if b":answer:" not in key]
    assert len(keys) > 3
    assert {key: store.client.pttl(key) for key in keys} == dict.fromkeys(keys, -1)
    assert run.content("runs:cancelled") is None
    assert [name for name, _ in run.content("runs:running")] == [run.run_id.encode()]


def test_what_cannot_be_revived_says_why(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    assert store.revive(run.run_id, timeout_seconds=None) == "running"
    run.commit(run.claim("begin"), stop())
    assert store.revive(run.run_id, timeout_seconds=None) == "completed"
    assert store.revive("nowhere", timeout_seconds=None) == "unknown"
    empty = DrivenRun(store, PLAN).start()
    empty.commit(empty.claim("begin"), Returned(None))
    store.finish(empty.run_id, "cancelled", event("x"))
    assert store.revive(empty.run_id, timeout_seconds=None) == "nothing"


def test_parked_delayed_and_suspended_work_survives_a_revival(store: Store) -> None:
    steps = [step(name, START) for name in ("parked", "delayed", "asleep")]
    run = DrivenRun(store, plan_of(*steps)).start()
    dispatch = run.dispatch("parked")
    run.leases.park(run.run_id, dispatch.work_id, "W", "parked")
    run.commit(run.claim("delayed"), failed(100))
    asleep = run.claim("asleep")
    run.commit(asleep, waiting(asleep))
    store.finish(run.run_id, "cancelled", event("x"))
    run.leases.unpark("W", ["parked"])

    reply = run.heard(store.revive(run.run_id, timeout_seconds=None))

    assert sorted(dispatch.step for dispatch in reply.dispatches) == ["delayed", "parked"]
    run.send(event("Answer"))
    assert sorted(dispatch.step for dispatch in run.dispatches) == ["asleep", "delayed", "parked"]
    assert run.play(dict.fromkeys(["asleep", "delayed", "parked"], lambda _: Returned(None))) == 3


def test_what_is_parked_because_an_events_class_is_missing_waits_for_a_worker_that_has_it(run: DrivenRun) -> None:
    work = run.claim("work")
    assert run.leases.park(run.run_id, work.work_id, "W", "work", work, lacks="shop.A")

    assert run.leases.unpark("W", ["work"], lambda name: name != "shop.A") == []
    [(_, applied)] = run.leases.unpark("W", ["work"], lambda name: name == "shop.A")

    assert [dispatch.work_id for dispatch in applied.dispatches] == [work.work_id]
