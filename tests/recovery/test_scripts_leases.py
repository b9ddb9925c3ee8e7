"""Leases: heartbeats, losses, suspects and fences."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, dump, event, failed, stop
from support.store.leases import PLAN, expire, lease, lose, of, run_with_three_items
from umbel.orchestration.engine.leases import Leases, Pulse
from umbel.orchestration.model.suspicion import NO_SUSPECTS, ONE_SUSPECT, Room
from umbel.orchestration.model.work_item import Returned, Work
from umbel.orchestration.store.replies import Applied, Refusal


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return run_with_three_items(store)


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_renews_the_lease_of_everything_held(run: DrivenRun) -> None:
    works = [run.claim("work") for _ in range(2)]
    expire(run, "o1")

    assert run.leases.heartbeat("o1", map(of, works)) == Pulse(False, frozenset())
    assert (lease(run, "o1") or 0) > works[0].claimed_at


def test_a_heartbeat_returns_what_was_lost(run: DrivenRun) -> None:
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


def test_an_owner_that_was_declared_dead_learns_it_and_can_claim_nothing(run: DrivenRun) -> None:
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


def test_an_idle_owner_whose_lease_has_run_out_is_not_declared_dead(run: DrivenRun) -> None:
    run.commit(run.claim("work"), Returned(None))
    expire(run, "o1")

    assert run.leases.fence("o1", run.keys.shard) == []
    assert lease(run, "o1") is None
    assert isinstance(run.ask(run.dispatches[0]), Work)


def test_fenced_owners_are_remembered_for_a_day(run: DrivenRun) -> None:
    run.store.client.zadd(run.keys["fenced"], {"ancient": 1})
    lose(run, "o1", run.claim("work"))

    assert [name for name, _ in run.content("fenced")] == [b"o1"]


# -- losses ------------------------------------------------------------------------------------------------------------


def lose_again_and_again(run: DrivenRun, *rooms: Room) -> list[tuple[int, ...]]:
    """Lose a work item repeatedly; return losses, charged losses, failures and suspicion of each attempt."""
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


def test_work_that_is_lost_in_a_crowd_is_suspected_more_and_not_charged(run: DrivenRun) -> None:
    counts = lose_again_and_again(run, NO_SUSPECTS, Room(1), Room(2), ONE_SUSPECT, ONE_SUSPECT)

    assert counts == [(1, 0, 0, 0, 0), (2, 1, 0, 0, 1), (3, 2, 0, 0, 2), (4, 3, 0, 0, 3), (5, 4, 1, 0, 3)]


def test_the_innocent_beside_a_killer_are_not_charged_for_it(run: DrivenRun) -> None:
    works = [run.claim("work") for _ in range(3)]
    lose(run, "o1", *works)

    again = [run.claim("work", owner="o2") for _ in range(3)]

    assert [(work.suspicion, work.charged_losses) for work in again] == [(1, 0)] * 3


def test_a_suspect_is_refused_to_a_process_without_room_for_its_level(run: DrivenRun) -> None:
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
