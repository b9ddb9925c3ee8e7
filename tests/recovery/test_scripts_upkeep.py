"""Leases: heartbeats, losses, suspects and fences; and work that is set aside for want of its code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.engine.leases import Held, Leases, Pulse
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.suspicion import NO_SUSPECTS, ONE_SUSPECT, Room
from umbel.orchestration.model.work_item import FannedOut, Returned, Work
from umbel.orchestration.store.replies import Applied, Refusal

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=10, timeout_seconds=60))


@pytest.fixture
def run(store: Store) -> DrivenRun:
    run = DrivenRun(store, PLAN).start()
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 3))
    return run


def of(work: Work) -> Held:
    return Held.parse(work.member)


def lease(run: DrivenRun, owner: str) -> float | None:
    score: float | None = run.store.client.zscore(run.keys["leases"], owner)
    return score


def expire(run: DrivenRun, owner: str) -> None:
    assert run.store.client.zadd(run.keys["leases"], {owner: 1}, xx=True, ch=True)


def lose(run: DrivenRun, owner: str, *works: Work) -> None:
    """The owner dies with these in hand."""
    held = run.leases.fence(owner, run.keys.shard, known_dead=True)
    assert set(held) == {of(work) for work in works}
    for _, applied in run.leases.hand_back(owner, held, charge=True):
        run.heard(applied)


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_renews_the_lease_of_everything_held(run: DrivenRun) -> None:
    works = [run.claim("work") for _ in range(2)]
    expire(run, "o1")

    assert run.leases.heartbeat("o1", map(of, works)) == Pulse(False, frozenset())
    assert (lease(run, "o1") or 0) > works[0].claimed_at


def test_a_heartbeat_tells_what_was_lost(run: DrivenRun) -> None:
    mine, gone = run.claim("work"), run.claim("work")
    run.leases.hand_back("o1", [of(gone)], charge=False)

    assert run.leases.heartbeat("o1", [of(mine), of(gone)]).lost == {of(gone)}


def test_a_claim_whose_answer_never_came_is_handed_back_uncharged(run: DrivenRun) -> None:
    mine, orphan = run.claim("work"), run.claim("work")

    pulse = run.leases.heartbeat("o1", [of(mine)])

    [(run_id, applied)] = pulse.handed_back
    assert (run_id, [(dispatch.work_id, dispatch.dispatch_no) for dispatch in applied.dispatches]) == (
        run.run_id,
        [(orphan.work_id, 2)],
    )
    record = run.record(orphan.work_id)
    assert (record.state, record.losses, record.suspicion, record.dispatch_no) == ("ready", 0, 0, 2)
    assert run.try_commit(orphan, stop()) is Refusal.STALE
    assert run.content("owner:o1") == [mine.member.encode()]


def test_an_owner_that_was_declared_lost_hears_it_and_claims_no_more(run: DrivenRun) -> None:
    work = run.claim("work")
    lose(run, "o1", work)

    assert run.leases.heartbeat("o1", [of(work)]).fenced
    assert run.ask(run.dispatches[0]) is Refusal.FENCED
    assert isinstance(run.ask(run.dispatches[0], owner="o1-again"), Work)


def test_an_owner_with_nothing_in_a_shard_has_no_lease_there(run: DrivenRun, store: Store) -> None:
    work = run.claim("work")
    run.commit(work, Returned(None))

    run.leases.heartbeat("o1", [of(work)])

    assert lease(run, "o1") is None


def test_a_claim_that_was_given_up_is_handed_back_from_a_shard_where_nothing_else_is_held(run: DrivenRun) -> None:
    given_up = run.claim("work")
    expire(run, "o1")

    run.leases.heartbeat("o1", [], shards=[run.keys.shard])

    assert run.leases.fence("o1", run.keys.shard) == []
    assert run.content("fenced") is None
    assert run.content("owner:o1") is None
    record = run.record(given_up.work_id)
    assert (record.state, record.suspicion) == ("ready", 0)
    run.leases.heartbeat("o1", [], shards=[0, 1])
    assert lease(run, "o1") is None


def test_a_claim_of_an_ended_run_that_nobody_commits_leaves_with_the_next_heartbeat(
    run: DrivenRun, store: Store
) -> None:
    run.claim("work")
    store.finish(run.run_id, "cancelled", event("x"))

    run.leases.heartbeat("o1", [], shards=[run.keys.shard])

    assert run.content("owner:o1") is None


# -- fence -------------------------------------------------------------------------------------------------------------


def test_a_living_owner_is_not_fenced(run: DrivenRun) -> None:
    work = run.claim("work")

    assert run.leases.fence("o1", run.keys.shard) == []
    assert isinstance(run.commit(work, Returned(None)), Applied)
    assert run.content("fenced") is None


def test_an_expired_owner_is_fenced_and_stays_listed_until_all_is_handed_back(run: DrivenRun) -> None:
    works = [run.claim("work") for _ in range(2)]
    expire(run, "o1")

    first = run.leases.fence("o1", run.keys.shard)
    assert set(first) == {of(work) for work in works}
    assert lease(run, "o1") == 0
    run.leases.hand_back("o1", [of(works[0])], charge=True)
    assert run.leases.fence("o1", run.keys.shard) == [of(works[1])]
    run.leases.hand_back("o1", [of(works[1])], charge=True)
    assert run.leases.fence("o1", run.keys.shard) == []

    assert lease(run, "o1") is None
    assert run.content("owner:o1") is None


def test_a_known_death_needs_no_expired_lease(run: DrivenRun) -> None:
    work = run.claim("work")

    assert run.leases.fence("o1", run.keys.shard, known_dead=True) == [of(work)]


def test_an_idle_owner_whose_lease_has_run_out_is_not_taken_for_dead(run: DrivenRun) -> None:
    run.commit(run.claim("work"), Returned(None))
    expire(run, "o1")

    assert run.leases.fence("o1", run.keys.shard) == []
    assert lease(run, "o1") is None
    assert isinstance(run.ask(run.dispatches[0]), Work)


def test_the_dead_are_remembered_for_a_day(run: DrivenRun) -> None:
    run.store.client.zadd(run.keys["fenced"], {"ancient": 1})
    lose(run, "o1", run.claim("work"))

    assert [name for name, _ in run.content("fenced")] == [b"o1"]


# -- losses ------------------------------------------------------------------------------------------------------------


def lose_again_and_again(run: DrivenRun, *rooms: Room) -> list[tuple[int, ...]]:
    """Of one work item: each attempt with its losses, those charged, failures, and how much it is suspected."""
    wanted = run.dispatches[0].work_id
    counts = []
    for n, room in enumerate(rooms):
        dispatch = next(dispatch for dispatch in reversed(run.dispatches) if dispatch.work_id == wanted)
        work = run.ask(dispatch, owner=f"dies{n}", room=room)
        assert isinstance(work, Work)
        counts.append((work.attempt, work.losses, work.charged_losses, work.failures, work.suspicion))
        lose(run, f"dies{n}", work)
    return counts


def test_a_first_loss_makes_a_suspect_and_only_losses_of_a_suspect_that_was_alone_are_charged(run: DrivenRun) -> None:
    counts = lose_again_and_again(run, *[ONE_SUSPECT] * 4)

    assert counts == [(1, 0, 0, 0, 0), (2, 1, 0, 0, 1), (3, 2, 1, 0, 2), (4, 3, 2, 0, 3)]


def test_whoever_is_lost_in_a_crowd_is_suspected_more_and_not_charged(run: DrivenRun) -> None:
    counts = lose_again_and_again(run, NO_SUSPECTS, Room(1), Room(2), ONE_SUSPECT, ONE_SUSPECT)

    assert counts == [(1, 0, 0, 0, 0), (2, 1, 0, 0, 1), (3, 2, 0, 0, 2), (4, 3, 0, 0, 3), (5, 4, 1, 0, 3)]


def test_the_innocent_beside_a_killer_are_not_charged_for_it(run: DrivenRun) -> None:
    works = [run.claim("work") for _ in range(3)]
    lose(run, "o1", *works)

    again = [run.claim("work", owner="o2") for _ in range(3)]

    assert [(work.suspicion, work.charged_losses) for work in again] == [(1, 0)] * 3


def test_a_suspect_is_refused_to_whom_has_no_room_for_one_of_its_level(run: DrivenRun) -> None:
    works = [run.claim("work") for _ in range(3)]
    lose(run, "o1", *works)
    again = run.ask(run.dispatches[0], owner="o2", room=Room(1))
    assert isinstance(again, Work)
    lose(run, "o2", again)
    dispatch = next(dispatch for dispatch in reversed(run.dispatches) if dispatch.work_id == again.work_id)

    assert run.ask(run.dispatches[1], owner="o3", room=NO_SUSPECTS) is Refusal.SUSPECT
    assert isinstance(run.ask(run.dispatches[1], owner="o3", room=Room(1)), Work)
    assert run.ask(dispatch, owner="o3", room=Room(1)) is Refusal.SUSPECT
    assert isinstance(run.ask(dispatch, owner="o3", room=Room(2)), Work)


def test_losing_twice_counts_once(run: DrivenRun, store: Store) -> None:
    work = run.claim("work")
    lose(run, "o1", work)
    before = dump(store.client, store.settings.key_prefix)

    [(_, applied)] = run.leases.hand_back("o1", [of(work)], charge=True)

    assert applied.dispatches == ()
    assert dump(store.client, store.settings.key_prefix) == before


def test_a_loss_that_comes_after_the_commit_changes_nothing(run: DrivenRun) -> None:
    work = run.claim("work")
    run.commit(work, failed(0))
    [(_, applied)] = run.leases.hand_back("o1", [of(work)], charge=True)

    assert applied.dispatches == ()
    assert run.claim("work").losses == 0


def test_a_loss_does_not_touch_the_next_owners_claim(run: DrivenRun) -> None:
    work = run.claim("work")
    lose(run, "o1", work)
    dispatch = next(dispatch for dispatch in reversed(run.dispatches) if dispatch.work_id == work.work_id)
    second = run.ask(dispatch, owner="o2")
    assert isinstance(second, Work)

    run.leases.hand_back("o1", [of(work)], charge=True)

    assert isinstance(run.commit(second, Returned(None)), Applied)


def test_losses_in_many_runs_are_handed_back_run_by_run(store: Store) -> None:
    leases = store.over(Leases)
    runs = [DrivenRun(store, PLAN).start() for _ in range(6)]
    works = [run.claim("begin", owner="dies") for run in runs]
    held = [each for shard in (0, 1) for each in leases.fence("dies", shard, known_dead=True)]
    done = leases.hand_back("dies", held, charge=True)

    assert sorted(run_id for run_id, _ in done) == sorted(run.run_id for run in runs)
    assert all(len(applied.dispatches) == 1 for _, applied in done)
    assert {work.work_id for work in works} == {applied.dispatches[0].work_id for _, applied in done}


def test_a_claim_of_an_ended_run_is_only_forgotten(run: DrivenRun, store: Store) -> None:
    work = run.claim("work")
    store.finish(run.run_id, "cancelled", event("x"))
    lose(run, "o1", work)

    assert run.content("owner:o1") is None
    assert store.client.zscore(run.keys["unclaimed"], f"{run.run_id}|{work.work_id}|umbel/0") is None


# -- parked work -------------------------------------------------------------------------------------------------------


def test_work_without_code_is_parked_and_taken_up_by_who_has_it(run: DrivenRun) -> None:
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


def test_a_claim_can_be_parked_by_who_holds_it_and_by_nobody_else(run: DrivenRun) -> None:
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


def test_a_revived_run_is_for_good_again(run: DrivenRun, store: Store) -> None:
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


def test_what_is_parked_for_want_of_an_events_class_waits_for_a_worker_that_knows_it(run: DrivenRun) -> None:
    work = run.claim("work")
    assert run.leases.park(run.run_id, work.work_id, "W", "work", work, lacks="shop.A")

    assert run.leases.unpark("W", ["work"], lambda name: name != "shop.A") == []
    [(_, applied)] = run.leases.unpark("W", ["work"], lambda name: name == "shop.A")

    assert [dispatch.work_id for dispatch in applied.dispatches] == [work.work_id]
