"""Small scenarios, each of which depends on one guard in the scripts: it fails when that guard is removed."""

from __future__ import annotations

from dataclasses import replace

from support.store.blocking import BlockingStore as Store
from support.store.driving import LIMITS, NOTHING, DrivenRun, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.commands import Publish
from umbel.orchestration.model.decide import CHUNK, decide, route
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.suspicion import NO_SUSPECTS, ONE_SUSPECT, Room
from umbel.orchestration.model.work_item import FannedOut, Origin, Returned, Work
from umbel.orchestration.store.replies import Applied, Dispatch, Refusal

PLAN = plan_of(
    step("begin", START, collected_by=("all", "first"), timeout_seconds=50),
    step("work", "A", num_workers=1),
    step("all", "M", kind="collect"),
    step("first", "M", kind="collect", take=2),
)


def begun(store: Store) -> tuple[DrivenRun, Work]:
    run = DrivenRun(store, PLAN).start(timeout_seconds=100)
    return run, run.claim("begin")


def lost(run: DrivenRun, work: Work) -> Dispatch:
    """The owner dies; returns the dispatch of the next attempt."""
    run.leases.fence(work.owner, run.keys.shard, known_dead=True)
    [(_, applied)] = run.leases.hand_back(work.owner, [Held.parse(work.member)], charge=True)
    return applied.dispatches[0]


def a_late_commit_is_stale(store: Store) -> None:
    run, late = begun(store)
    run.ask(lost(run, late), owner="o2")
    assert run.try_commit(late, stop()) is Refusal.STALE


def a_late_burst_is_stale(store: Store) -> None:
    run, late = begun(store)
    run.ask(lost(run, late), owner="o2")
    assert run.flush(late, 1, ("x", event("A"))) is Refusal.STALE


def a_late_staging_is_stale(store: Store) -> None:
    run, late = begun(store)
    run.ask(lost(run, late), owner="o2")
    assert run.try_commit(late, FannedOut((event("A"),) * (CHUNK + 1))) is Refusal.STALE
    assert run.content("queue") is None


def two_doorbells_start_one_attempt(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    answers = [run.ask(run.dispatches[0]), run.ask(run.dispatches[0], owner="o2")]
    assert answers[1] is Refusal.BUSY


def a_repeated_claim_is_answered_again(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    assert run.ask(run.dispatches[0], claim_id="c") == run.ask(run.dispatches[0], claim_id="c")


def the_dead_claim_nothing(store: Store) -> None:
    run, work = begun(store)
    assert run.ask(lost(run, work)) is Refusal.FENCED


def a_suspect_needs_room(store: Store) -> None:
    run, work = begun(store)
    assert run.ask(lost(run, work), owner="o2", room=NO_SUSPECTS) is Refusal.SUSPECT


def a_first_loss_is_not_charged(store: Store) -> None:
    run, work = begun(store)
    again = run.ask(lost(run, work), owner="o2")
    assert isinstance(again, Work)
    assert (again.losses, again.charged_losses) == (1, 0)


def _lost_twice(store: Store, room: Room) -> Work:
    run, work = begun(store)
    again = run.ask(lost(run, work), owner="o2", room=room)
    assert isinstance(again, Work)
    third = run.ask(lost(run, again), owner="o3")
    assert isinstance(third, Work)
    return third


def a_suspects_loss_is_charged_if_it_was_alone(store: Store) -> None:
    work = _lost_twice(store, ONE_SUSPECT)
    assert (work.losses, work.charged_losses) == (2, 1)


def a_suspects_loss_in_a_crowd_is_not_charged(store: Store) -> None:
    work = _lost_twice(store, Room(1))
    assert (work.losses, work.charged_losses) == (2, 0)


def a_loss_leaves_the_next_claim_alone(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, failed(0))
    again = run.claim("begin")
    run.leases.hand_back("o1", [Held.parse(work.member)], charge=True)
    assert isinstance(run.try_commit(again, stop()), Applied)


def missing_bursts_hold_up_the_commit(store: Store) -> None:
    run, work = begun(store)
    assert run.try_commit(work, stop(), batches=1) is Refusal.MISSING


def a_burst_must_not_skip_one(store: Store) -> None:
    run, work = begun(store)
    assert run.flush(work, 2, ("x", event("A"))) is Refusal.MISSING


def a_burst_counts_once(store: Store) -> None:
    run, work = begun(store)
    for _ in range(2):
        run.flush(work, 1, publishes=[Publish(event("P"))])
    assert len(run.content("stream")) == 1


def what_was_sent_is_not_sent_again(store: Store) -> None:
    run, work = begun(store)
    run.flush(work, 1, ("x", event("A")))
    run.commit(work, failed(0), batches=1)
    run.flush(run.claim("begin"), 1, ("x", event("A")))
    assert store.run(run.run_id).live == 2


def a_slot_is_given_back_by_who_holds_it(store: Store) -> None:
    run, work = begun(store)
    store.client.hset(run.keys["slots"], "begin/0", "somebody else")
    run.commit(work, Returned(None))
    assert store.client.hget(run.keys["slots"], "begin/0") == b"somebody else"


def outdated_waiters_are_noticed(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("asks", START), step("tells", START))).start()
    asks, tells = run.claim("asks"), run.claim("tells")
    decision = decide(run.plan, tells, Returned(event("Answer")), NOTHING, LIMITS)
    run.commit(asks, waiting(asks))
    reply = store.commit(tells, run.plan, decision, surroundings=NOTHING, batches=0, entry={})
    assert reply is Refusal.CHANGED


def outdated_waiters_are_noticed_by_a_send(store: Store) -> None:
    run, work = begun(store)
    commands = route(PLAN, event("Answer"), Origin(run.run_id, "o"), "e", NOTHING, LIMITS)
    run.commit(work, waiting(work))
    assert store.send(run.run_id, "s", commands, surroundings=NOTHING) is Refusal.CHANGED


def an_answered_waiter_is_not_resumed_again(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, waiting(work, timeout_seconds=50))
    run.send(event("Answer"))
    run.store.client.zadd(run.keys["timers"], {f"waiter|{run.run_id}|{work.work_id}|w": 1})
    run.wake("waiter", work.work_id, "w")
    assert run.claim("begin").answers == {"w": event("Answer")}


def take_fires_once(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, FannedOut((event("M"),) * 5))
    assert [dispatch.step for dispatch in run.dispatches] == ["first", "all"]


def an_open_fan_out_inside_keeps_its_surroundings_open(store: Store) -> None:
    plan = plan_of(
        step("begin", START, collected_by=("all",)), step("split", "S"), step("work", "A"), PLAN.by_name["all"]
    )
    run = DrivenRun(store, plan).start()
    run.commit(run.claim("begin"), FannedOut((event("S"),)))
    run.commit(run.claim("split"), FannedOut((event("A"),)))
    assert [dispatch.step for dispatch in run.dispatches] == ["work"]
    run.commit(run.claim("work"), Returned(event("M")))
    assert len(store.members(run.claim("all"))) == 1


def a_commit_is_answered_again(store: Store) -> None:
    _, work = begun(store)
    decision = decide(PLAN, work, Returned(event("A")), NOTHING, LIMITS)
    first, second = (store.commit(work, PLAN, decision, surroundings=NOTHING, batches=0, entry={}) for _ in range(2))
    assert first == second


def a_send_counts_once(store: Store) -> None:
    run, _ = begun(store)
    for _ in range(2):
        run.send(event("A"), send_id="s")
    assert store.run(run.run_id).live == 2


def a_start_counts_once(store: Store) -> None:
    run, _ = begun(store)
    again = store.start(run.run_id, PLAN, [], nonce="other", timeout_seconds=None)
    assert again is Refusal.EXISTS


def the_first_end_wins(store: Store) -> None:
    run, work = begun(store)
    store.finish(run.run_id, "cancelled", event("x"))
    store.finish(run.run_id, "timed_out", event("y"))
    assert run.status == "cancelled"
    run.try_commit(work, stop())
    assert run.status == "cancelled"


def a_run_times_out_only_when_due(store: Store) -> None:
    run, _ = begun(store)
    assert not store.finish(run.run_id, "timed_out", event("x"), if_due=True)


def a_timer_waits(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, failed(100))
    assert run.wake("retry", work.work_id) is None


def a_deadline_waits(store: Store) -> None:
    run, work = begun(store)
    assert run.wake("deadline", work.work_id) is None


def the_living_are_not_fenced(store: Store) -> None:
    run, work = begun(store)
    assert run.leases.fence("o1", run.keys.shard) == []
    assert isinstance(run.try_commit(work, stop()), Applied)


def a_claim_takes_out_a_lease(store: Store) -> None:
    run, work = begun(store)
    assert (store.client.zscore(run.keys["leases"], "o1") or 0) > work.claimed_at


def the_idle_are_not_dead(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, Returned(event("A")))
    store.client.zadd(run.keys["leases"], {"o1": 1})
    run.leases.fence("o1", run.keys.shard)
    assert isinstance(run.ask(run.dispatches[0]), Work)


def a_repeated_chunk_is_staged_once(store: Store) -> None:
    run, work = begun(store)
    decision = decide(PLAN, work, FannedOut((event("M"),) * (CHUNK + 1)), NOTHING, LIMITS)
    store.stage(work, decision, CHUNK)
    later = {name: staged[CHUNK // 2 :] for name, staged in decision.staged.items()}
    store.stage(work, replace(decision, staged=later), CHUNK)
    run.heard(store.commit(work, PLAN, decision, surroundings=NOTHING, batches=0, entry={}))
    assert run.claim("all").members == CHUNK + 1


def a_collected_set_is_given_once(store: Store) -> None:
    _, work = begun(store)
    expected = [("C", 1, "buffer:b|C")]
    answers = [
        store.collect(work, buffer="s|b", call="c", event=event("C", n=1), expected=expected, taken="taken:t")
        for _ in range(2)
    ]
    assert answers == [[event("C", n=1)]] * 2


def parked_work_is_not_parked_by_others(store: Store) -> None:
    run, work = begun(store)
    assert not run.leases.park(run.run_id, work.work_id, "W", "begin")


def a_queue_is_first_in_first_out(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, FannedOut(tuple(event("A", i=i) for i in range(3))))
    order = []
    while run.dispatches:
        following = run.ask(run.dispatches.popleft())
        assert isinstance(following, Work)
        order += [bound.value()["i"] for bound in following.bound]
        run.commit(following, Returned(None))
    assert order == [0, 1, 2]


def joins_end_with_their_fan_out(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("begin", START), step("pair", "L", "R", kind="all_of"))).start()
    run.commit(run.claim("begin"), FannedOut((event("L"), event("L"), event("R"))))
    run.commit(run.claim("pair"), Returned(None))
    for name in ("joins", "events", "scopes"):
        assert run.content(name) is None, name


def members_of_a_lost_attempt_are_cleared(store: Store) -> None:
    run, work = begun(store)
    store.stage(work, decide(PLAN, work, FannedOut((event("M"),) * (CHUNK + 1)), NOTHING, LIMITS), CHUNK)
    again = run.ask(lost(run, work), owner="o2")
    assert isinstance(again, Work)
    store.unstage(again, CHUNK)
    run.commit(again, FannedOut(()))
    assert run.claim("all", owner="o2").members == 0


def a_shorter_staging_replaces_the_longer(store: Store) -> None:
    run, work = begun(store)
    for n in (CHUNK + 2, CHUNK + 1):
        decision = decide(PLAN, work, FannedOut((event("A"),) * n), NOTHING, LIMITS)
        assert store.stage(work, decision, CHUNK) is None
    assert len(run.content("queue")) == CHUNK + 1


def a_running_run_is_not_retired(store: Store) -> None:
    run, work = begun(store)
    run.flush(work, 1, ("x", event("A")))
    run.leases.retire(run.run_id)
    assert store.client.pttl(run.keys[f"sent:{work.work_id}"]) == -1


def what_is_claimed_is_not_rung_for(store: Store) -> None:
    run, work = begun(store)
    assert run.leases.redispatch(run.run_id, [(work.work_id, "umbel/0")]).dispatches == ()


def a_completed_run_is_not_revived(store: Store) -> None:
    run, work = begun(store)
    run.commit(work, stop())
    assert store.revive(run.run_id, timeout_seconds=None) == "completed"


def what_was_not_parked_is_not_taken_up(store: Store) -> None:
    run, work = begun(store)
    store.client.zadd(run.keys["parked"], {f"W|begin|{run.run_id}|{work.work_id}": 1})
    [(_, applied)] = run.leases.unpark("W", ["begin"])
    assert applied.dispatches == ()
    assert isinstance(run.try_commit(work, stop()), Applied)
