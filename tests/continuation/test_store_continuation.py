"""Local continuation, as Redis sees it: a commit claims one work item that it makes ready, for the committing owner."""

from __future__ import annotations

from dataclasses import replace

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, DrivenRun, event, failed, plan_of, step, stop
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.decide import decide
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Outcome, Returned, Work
from umbel.orchestration.store.replies import Applied, CarryOn, Refusal

PLAN = plan_of(
    step("begin", START, collected_by=("all",)),
    step("leaf", "L", num_workers=2, timeout_seconds=50),
    step("all", "M", kind="collect"),
    step("last", "Z"),
)
CARRY = CarryOn("carried")


def commit(run: DrivenRun, work: Work, outcome: Outcome, carry_on: CarryOn | None = CARRY) -> Applied:
    around = run.store.surroundings(run.run_id)
    decision = decide(run.plan, work, outcome, around, LIMITS)
    return run.heard(
        run.store.commit(work, run.plan, decision, surroundings=around, batches=0, entry={}, carry_on=carry_on)
    )


def begun(store: Store) -> tuple[DrivenRun, Work]:
    run = DrivenRun(store, PLAN).start()
    return run, run.claim("begin")


def test_a_commit_continues_with_one_ready_item_and_dispatches_the_others(store: Store) -> None:
    run, work = begun(store)

    applied = commit(run, work, FannedOut((event("L", n=1), event("L", n=2), event("L", n=3), event("Z"))))

    assert applied.continued is not None
    assert (applied.continued.step, applied.continued.bound) == ("leaf", (event("L", n=1),))
    assert (applied.continued.owner, applied.continued.claim_id, applied.continued.attempt) == ("o1", "carried", 1)
    assert sorted(dispatch.step for dispatch in applied.dispatches) == [
        "last",
        "leaf",
    ]  # two slots


def test_what_it_continues_with_is_a_claim_like_any_other(store: Store) -> None:
    run, work = begun(store)
    carried = commit(run, work, FannedOut((event("L", n=1),))).continued
    assert carried is not None

    assert store.client.smembers(run.keys["owner:o1"]) == {carried.member.encode()}
    assert store.client.zscore(run.keys["timers"], f"deadline|{run.run_id}|{carried.work_id}") is not None
    assert store.client.zscore(run.keys["leases"], "o1") is not None
    assert not run.dispatches

    [(_, applied)] = run.leases.hand_back("o1", [Held.parse(carried.member)], charge=True)
    assert run.try_commit(carried, Returned(event("M"))) is Refusal.STALE
    run.heard(applied)
    again = run.claim("leaf", owner="o2")
    assert (again.attempt, again.losses) == (2, 1)
    run.commit(again, Returned(event("M")))
    run.commit(run.claim("all"), stop("done"))
    assert run.result == "done"


def test_a_commit_asked_again_gives_the_same_work_until_that_has_moved_on(store: Store) -> None:
    run, work = begun(store)
    outcome = FannedOut((event("L", n=1), event("L", n=2)))
    first = commit(run, work, outcome)
    assert first.continued is not None
    assert first.dispatches

    assert commit(run, work, outcome) == first

    commit(run, first.continued, Returned(None), None)
    assert commit(run, work, outcome) == replace(first, continued=None)


def test_a_repeated_continuation_commit_is_stale_after_its_work_changed(store: Store) -> None:
    run, work = begun(store)
    outcome = FannedOut((event("L", n=1),))
    first = commit(run, work, outcome)
    assert first == Applied(continued=first.continued)
    assert first.continued is not None

    assert commit(run, work, outcome) == first
    assert not store.client.exists(run.keys[f"answer:{work.work_id}"])

    commit(run, first.continued, Returned(None), None)
    assert run.try_commit(work, outcome) is Refusal.STALE


def test_steps_that_the_process_does_not_continue_are_dispatched(store: Store) -> None:
    run, work = begun(store)

    applied = commit(run, work, FannedOut((event("L", n=1), event("Z"))), CarryOn("c", ("leaf",)))

    assert applied.continued is not None
    assert applied.continued.step == "last"
    assert [dispatch.step for dispatch in applied.dispatches] == ["leaf"]


def test_a_suspect_is_not_continued(store: Store) -> None:
    run, work = begun(store)
    run.leases.fence("o1", run.keys.shard, known_dead=True)
    [(_, applied)] = run.leases.hand_back("o1", [Held.parse(work.member)], charge=True)
    run.heard(applied)
    suspect = run.claim("begin", owner="o2")
    assert suspect.suspicion

    tried_again = commit(run, suspect, failed(0))

    assert tried_again.continued is None
    assert [dispatch.step for dispatch in tried_again.dispatches] == ["begin"]


def test_the_next_in_the_queue_takes_over_the_slot_in_the_same_process(store: Store) -> None:
    run, work = begun(store)
    seen = []
    applied = commit(run, work, FannedOut(tuple(event("L", n=n) for n in range(5))))
    run.dispatches.clear()  # another process has the other slot
    while applied.continued is not None and applied.continued.step == "leaf":
        seen.append(applied.continued.bound[0].value()["n"])
        applied = commit(run, applied.continued, Returned(event("M")))

    assert seen == [0, 2, 3, 4]


def test_nothing_is_continued_when_the_run_has_ended(store: Store) -> None:
    run, work = begun(store)

    applied = commit(run, work, stop("early"))

    assert (applied.ended, applied.continued) == (True, None)
    assert store.client.smembers(run.keys["owner:o1"]) == set()
