"""Claim and commit: one of many dispatches executes, and one of many outcomes is recorded."""

from __future__ import annotations

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, NOTHING, DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.decide import decide
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.waiters import Surroundings
from umbel.orchestration.model.work_item import FannedOut, Returned, Work
from umbel.orchestration.store.record import WorkRecord
from umbel.orchestration.store.replies import Applied, Refusal

ONE = plan_of(step("only", START))
TWO = plan_of(step("first", START), step("second", "A"))


def test_a_claim_says_what_to_execute(store: Store) -> None:
    plan = plan_of(step("only", START, queue="gpu", priority=3))
    run = DrivenRun(store, plan).start(event(START, x=1))
    dispatch = run.dispatches[0]
    assert (dispatch.step, dispatch.queue, dispatch.priority, dispatch.dispatch_no) == ("only", "gpu", 3, 1)

    work = run.claim("only", claim_id="mine")

    assert (work.step, work.attempt, work.failures, work.losses, work.resumptions) == ("only", 1, 0, 0, 0)
    assert work.bound == (event(START, x=1),)
    assert work.token == "1-mine"
    assert (work.owner, work.slot, work.event_name) == ("o1", 0, START)
    assert (work.plan_digest, work.workflow, work.state_id) == (plan.digest, "W", run.run_id)
    assert work.created_at <= work.first_attempt_at == work.claimed_at


def test_a_claim_is_in_the_record_and_the_owners_set_and_no_longer_unclaimed(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    assert [name.split(b"|")[0].decode() for name, _ in run.content("unclaimed")] == [run.run_id]
    assert run.content("unclaimed_counts") == {b"umbel/0": b"1"}

    work = run.claim("only")

    record = run.record(work.work_id)
    assert (record.state, record.owner, record.token, record.claim_id) == ("running", "o1", work.token, work.claim_id)
    assert run.content("owner:o1") == [work.member.encode()]
    assert [name for name, _ in run.content("leases")] == [b"o1"]
    assert run.content("unclaimed") is None
    assert run.content("unclaimed_counts") is None
    assert run.content("watermark") == {b"umbel/0": str(record.dispatched_at).encode()}


def test_asking_again_with_the_same_claim_id_gives_the_same_work(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    dispatch = run.dispatches[0]
    first = run.ask(dispatch, claim_id="c")
    before = dump(store.client, store.settings.key_prefix)

    assert run.ask(dispatch, claim_id="c") == first
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_second_dispatch_finds_the_item_busy(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    dispatch = run.dispatches[0]
    run.ask(dispatch)

    assert run.ask(dispatch) is Refusal.BUSY
    assert run.ask(dispatch, owner="o2") is Refusal.BUSY
    assert run.content("counters")[b"duplicate_doorbells"] == b"2"


def test_a_dispatch_of_a_finished_item_is_stale(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    dispatch = run.dispatches[0]
    run.commit(run.claim("first"), Returned(event("A")))

    assert run.ask(dispatch) is Refusal.STALE


def test_a_dispatch_for_a_queued_delayed_or_suspended_item_is_stale(store: Store) -> None:
    plan = plan_of(step("begin", START), step("narrow", "A", num_workers=1))
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("A"), event("A"))))
    dispatch = run.dispatches[0]
    run.commit(run.claim("narrow"), failed(100))

    assert run.ask(dispatch) is Refusal.STALE
    second = run.dispatches[0]
    run.commit(run.claim("narrow"), Returned(None))
    run.make_due(f"retry|{dispatch.work_id}")
    run.wake("retry", dispatch.work_id)
    work = run.claim("narrow")
    run.commit(work, waiting(work))
    assert run.ask(dispatch) is Refusal.STALE
    assert run.ask(second) is Refusal.STALE


def test_a_dispatch_from_the_future_is_stale(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    dispatch = run.dispatches[0]

    assert store.claim(run.run_id, dispatch.work_id, 9, claim_id="c", owner="o") is Refusal.STALE


def test_an_older_dispatch_of_a_ready_item_is_as_good_as_the_newest(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    old = run.dispatches[0]
    run.leases.redispatch(run.run_id, [(old.work_id, f"{old.queue}/0")])

    assert isinstance(run.ask(old), Work)


def test_a_claim_in_an_ended_run_is_closed_and_leaves_the_unclaimed_index(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    store.finish(run.run_id, "cancelled", event("x"))

    assert run.ask(run.dispatches[0]) is Refusal.CLOSED
    assert run.content("unclaimed") is None
    assert run.content("unclaimed_counts") is None


def test_a_claim_in_a_run_that_never_was_is_unknown(store: Store) -> None:
    assert store.claim("nowhere", "w", 1, claim_id="c", owner="o") is Refusal.UNKNOWN
    assert dump(store.client, store.settings.key_prefix, without=("counters", "deployment")) == {}


def test_every_claim_has_a_token_of_its_own(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    tokens = []
    for attempt in range(1, 4):
        work = run.claim("only")
        assert work.attempt == attempt
        tokens.append(work.token)
        run.commit(work, failed(0))

    assert [token.split("-")[0] for token in tokens] == ["1", "2", "3"]


def test_a_lease_begins_again_with_the_first_thing_held(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    run.commit(run.claim("first"), Returned(event("A")))
    store.client.zadd(run.keys["leases"], {"o1": 1})

    work = run.claim("second")

    assert run.leases.fence("o1", run.keys.shard) == []
    assert isinstance(run.commit(work, stop()), Applied)


# -- commit ------------------------------------------------------------------------------------------------------------


def test_a_commit_records_the_outcome_and_all_it_leads_to_at_once(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    work = run.claim("first")
    reply = run.commit(work, Returned(event("A", n=1)))

    assert [dispatch.step for dispatch in reply.dispatches] == ["second"]
    assert not reply.ended
    assert run.record(work.work_id) == WorkRecord()
    assert run.content("owner:o1") is None
    record = store.run(run.run_id)
    assert (record.commits, record.live) == (1, 1)
    kinds = [(kind, data.get("s"), data.get("a")) for _, kind, data in store.journal(run.run_id)]
    assert kinds == [("start", None, 0), ("claim", "first", 1), ("commit", "first", 1)]


def test_a_repeated_commit_gives_its_first_answer(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    work = run.claim("first")
    decision = decide(TWO, work, Returned(event("A")), NOTHING, LIMITS)
    first = store.commit(work, TWO, decision, surroundings=NOTHING, batches=0, entry={})
    before = dump(store.client, store.settings.key_prefix, without=("counters",))

    assert store.commit(work, TWO, decision, surroundings=NOTHING, batches=0, entry={}) == first
    assert isinstance(first, Applied)
    assert first.dispatches
    assert dump(store.client, store.settings.key_prefix, without=("counters",)) == before


def test_a_commit_under_an_old_token_is_stale(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    late = run.claim("only", owner="slow")
    run.leases.fence("slow", run.keys.shard, known_dead=True)
    for _, applied in run.leases.hand_back("slow", [Held.parse(late.member)], charge=True):
        run.heard(applied)
    current = run.claim("only")

    assert run.try_commit(late, stop("late")) is Refusal.STALE
    assert run.try_commit(current, stop("right")) == Applied((), True)
    assert run.try_commit(late, stop("late")) is Refusal.CLOSED
    assert run.result == "right"


def test_a_commit_whose_flushed_events_are_not_all_there_is_refused_and_may_be_repeated(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    work = run.claim("only")

    assert run.try_commit(work, stop(), batches=1) is Refusal.MISSING
    run.flush(work, 1, ("id", event("X")))
    assert run.try_commit(work, stop(), batches=0) is Refusal.MISSING
    assert run.content("owner:o1") == [work.member.encode()]
    assert run.try_commit(work, stop(), batches=1) == Applied((), True)


def test_a_decision_made_on_outdated_waiters_is_refused(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    decision = decide(run.plan, tells, Returned(event("Answer", n=1)), Surroundings(tells.version), LIMITS)
    run.commit(asks, waiting(asks))

    refused = store.commit(tells, run.plan, decision, surroundings=NOTHING, batches=0, entry={})

    assert refused is Refusal.CHANGED
    assert [dispatch.step for dispatch in run.commit(tells, Returned(event("Answer", n=1))).dispatches] == ["asks"]
    assert run.claim("asks").answers == {"w": event("Answer", n=1)}


def test_what_looks_at_no_waiter_commits_whatever_has_changed(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    decision = decide(run.plan, tells, Returned(None), Surroundings(0), LIMITS)
    run.commit(asks, waiting(asks))

    assert isinstance(store.commit(tells, run.plan, decision, surroundings=NOTHING, batches=0, entry={}), Applied)


def test_a_second_outcome_under_the_same_token_changes_nothing(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    work = run.claim("only")
    first = run.commit(work, failed(0))

    assert run.try_commit(work, stop("other")) == first
    assert run.status == "running"
    assert store.run(run.run_id).commits == 1


def test_a_forgotten_script_is_given_to_redis_again(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    store.client.function_flush()

    work = run.claim("first")
    store.client.function_flush()

    assert run.commit(work, Returned(event("A"))).dispatches
