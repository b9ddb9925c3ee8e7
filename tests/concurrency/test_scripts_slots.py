"""num_workers: numbered slots, a first-in-first-out queue for the rest, and no leaks."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event, failed, plan_of, step, waiting
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.decide import CHUNK
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Returned, Work


def fan(store: Store, n: int, workers: int) -> DrivenRun:
    """Return a run whose first step has fanned out into `n` items of a step with `workers` slots."""
    plan = plan_of(step("begin", START), step("work", "A", num_workers=workers))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut(tuple(event("A", i=i) for i in range(n))))
    return run


def number(work: Work) -> int:
    return int(work.bound[0].value()["i"])


def slots(run: DrivenRun) -> dict[str, str]:
    """Return the slots in use: `step/n` -> work id."""
    found = run.content("slots") or {}
    return {name.decode(): wid.decode() for name, wid in found.items() if b"/" in name}


def test_no_more_than_num_workers_are_dispatched(store: Store) -> None:
    run = fan(store, 5, workers=2)

    assert len(run.dispatches) == 2
    assert sorted(slots(run)) == ["work/0", "work/1"]
    assert store.run(run.run_id).live == 5


def test_the_rest_follows_first_in_first_out(store: Store) -> None:
    run = fan(store, 5, workers=1)

    seen = []
    while run.dispatches:
        work = run.claim("work")
        seen.append(number(work))
        run.commit(work, Returned(None))

    assert seen == [0, 1, 2, 3, 4]


def test_the_smallest_free_number_is_taken(store: Store) -> None:
    run = fan(store, 3, workers=3)
    zero, one, two = (run.claim("work") for _ in range(3))
    assert [zero.slot, one.slot, two.slot] == [0, 1, 2]
    run.commit(two, Returned(event("A", i=3)))
    assert run.claim("work").slot == 2
    run.commit(zero, Returned(None))
    run.commit(one, Returned(event("A", i=4)))

    assert run.claim("work").slot == 0
    assert sorted(slots(run)) == ["work/0", "work/2"]


def test_a_queued_item_is_reported_as_preparing(store: Store) -> None:
    run = fan(store, 2, workers=1)

    states = [entry for entry in (run.content("trace") or ()) if b"<enqueued>" in entry[1][b"d"]]

    assert len(states) == 1


def test_a_delayed_retry_frees_its_slot_and_queues_behind(store: Store) -> None:
    run = fan(store, 3, workers=1)
    failing = run.claim("work")
    run.commit(failing, failed(100))
    assert slots(run) == {"work/0": run.dispatches[0].work_id}

    following = run.claim("work")
    run.make_due(f"retry|{failing.work_id}")
    run.wake("retry", failing.work_id)

    assert number(following) == 1
    run.commit(following, Returned(None))
    third = run.claim("work")
    assert number(third) == 2
    run.commit(third, Returned(None))
    again = run.claim("work")
    assert (number(again), again.attempt, again.failures) == (0, 2, 1)


def test_an_immediate_retry_keeps_its_slot(store: Store) -> None:
    run = fan(store, 2, workers=1)
    work = run.claim("work")
    run.commit(work, failed(0))

    assert number(run.claim("work")) == 0


def test_a_suspended_step_frees_its_slot(store: Store) -> None:
    run = fan(store, 2, workers=1)
    work = run.claim("work")
    run.commit(work, waiting(work))

    assert number(run.claim("work")) == 1


def test_a_loss_keeps_its_slot(store: Store) -> None:
    run = fan(store, 2, workers=1)
    lost = run.claim("work")
    run.leases.fence("o1", run.keys.shard, known_dead=True)
    for _, applied in run.leases.hand_back("o1", [Held.parse(lost.member)], charge=True):
        run.heard(applied)

    assert slots(run) == {"work/0": lost.work_id}
    assert number(run.claim("work", owner="o2")) == 0


def test_limits_are_per_step(store: Store) -> None:
    plan = plan_of(step("begin", START), step("one", "A", num_workers=1), step("one2", "A", num_workers=2))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 3))

    assert sorted(slots(run)) == ["one/0", "one2/0", "one2/1"]


@pytest.mark.parametrize("n", [CHUNK + 1, 2 * CHUNK + 50])
def test_a_staged_fan_out_uses_the_slots_and_keeps_its_order(store: Store, n: int) -> None:
    run = fan(store, n, workers=3)
    assert len(run.dispatches) == 3
    assert store.run(run.run_id).live == n

    order = []
    while run.dispatches:
        work = run.claim("work")
        order.append(number(work))
        run.commit(work, Returned(None))

    assert order == list(range(n))
    assert run.content("queue") is None
    assert run.content("events") is None
    assert run.content("work") is None


def test_what_arrives_behind_a_staged_fan_out_waits_in_order(store: Store) -> None:
    plan = plan_of(step("begin", START), step("work", "A", num_workers=1))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut(tuple(event("A", i=i) for i in range(CHUNK + 1))))
    run.send(event("A", i=9_999))

    order = []
    while run.dispatches:
        work = run.claim("work")
        order.append(number(work))
        run.commit(work, Returned(None))

    assert order == [*range(CHUNK + 1), 9_999]


def test_a_staged_fan_out_with_slots_to_spare_starts_at_once(store: Store) -> None:
    run = fan(store, CHUNK + 1, workers=CHUNK + 10)

    assert len(run.dispatches) == CHUNK + 1
