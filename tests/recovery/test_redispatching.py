"""Unclaimed dispatches: when they count as lost and are redispatched."""

from __future__ import annotations

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_sweep
from support.store.driving import DrivenRun, failed, stop
from support.store.sweeping import Sent, dispatched, fan, sweeping
from umbel.orchestration.engine.sweep import PAGE, PAGES
from umbel.orchestration.model.work_item import Work


def claimed_until(run: DrivenRun, line: str, at: int) -> None:
    """Pretend that the newest claim from a queue was of a dispatch made at this instant."""
    run.store.client.hset(run.keys["watermark"], line, at)


def test_a_dispatch_that_is_not_due_is_left_alone(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, "A")

    assert sweeping(run, dispatches) == 0
    assert dispatches.steps() == []


def test_an_empty_queue_has_lost_everything_unclaimed_that_is_due(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, "A", "A", "A")
    lost, alsolost, fresh = run.dispatches
    dispatched(run, lost, 1)
    dispatched(run, alsolost, 2)

    sweeping(run, dispatches)

    assert {dispatch.work_id for dispatch in dispatches.sent} == {lost.work_id, alsolost.work_id}
    assert {dispatch.dispatch_no for dispatch in dispatches.sent} == {2}
    assert isinstance(run.ask(dispatches.sent[0]), Work)
    assert fresh.work_id not in {dispatch.work_id for dispatch in dispatches.sent}


def test_a_queue_that_is_merely_long_is_not_flooded(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, *"AAAA")
    for at, dispatch in enumerate(run.dispatches, 1000):
        dispatched(run, dispatch, at)
    claimed_until(run, "umbel/0", 999)

    assert sweeping(run, dispatches, lambda _: 4) == 0
    assert dispatches.steps() == []


def test_what_a_long_queue_has_passed_over_was_lost(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, *"AAAA")
    for at, dispatch in enumerate(run.dispatches, 1000):
        dispatched(run, dispatch, at)
    claimed_until(run, "umbel/0", 1001)

    sweeping(run, dispatches, lambda _: 2)

    assert {dispatch.work_id for dispatch in dispatches.sent} == {
        dispatch.work_id for dispatch in list(run.dispatches)[:2]
    }


def test_the_urgent_that_overtake_do_not_make_the_others_lost(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, "A", "U")
    for dispatch in run.dispatches:
        dispatched(run, dispatch, 1000)
    claimed_until(run, "umbel/0", 999)
    claimed_until(run, "umbel/9", 2000)

    sweeping(run, dispatches, lambda _: 2)

    assert dispatches.steps() == ["urgent"]


def test_each_queue_is_judged_by_itself(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, "A", "G")
    for dispatch in run.dispatches:
        dispatched(run, dispatch, 1000)
    claimed_until(run, "umbel/0", 10)

    sweeping(run, dispatches, lambda queue: {"umbel": 5, "gpu": 0}[queue])

    assert dispatches.steps() == ["gpu"]


def test_a_long_queue_does_not_hide_what_another_has_lost(run: DrivenRun, dispatches: Sent) -> None:
    fan(run, "G")
    dispatched(run, run.dispatches[0], 2000)
    waiting = {f"{run.run_id}|w{n}|umbel/0": 1000 for n in range((PAGES + 2) * PAGE)}
    run.store.client.zadd(run.keys["unclaimed"], waiting)
    run.store.client.hset(run.keys["unclaimed_counts"], "umbel/0", len(waiting))
    claimed_until(run, "umbel/0", 10)
    sweep = blocking_sweep(run.store, dispatches, lambda queue: {"umbel": 5, "gpu": 0}[queue])

    sweep.sweep(everything=True)
    sweep.sweep(everything=True)

    assert dispatches.steps() == ["gpu"]
    assert run.store.client.zcount(run.keys["unclaimed"], 1000, 1000) == len(waiting)


def test_a_broker_that_cannot_tell_how_long_a_queue_is_gets_the_longest_patience(
    run: DrivenRun, dispatches: Sent, store: Store
) -> None:
    fan(run, "A", "G")
    claimed_until(run, "umbel/0", 1)
    seconds, micros = store.client.time()
    longest = round(store.settings.redispatch_max_seconds * 1000)
    dispatched(run, run.dispatches[0], seconds * 1000 + micros // 1000 - longest - 1)
    dispatched(run, run.dispatches[1], seconds * 1000 + micros // 1000 - longest // 2)

    sweeping(run, dispatches, lambda _: None)

    assert dispatches.steps() == ["work"]


def test_redispatching_backs_off_and_a_claim_resets_it(run: DrivenRun, store: Store) -> None:
    fan(run, "A")
    dispatch = run.dispatches[0]
    member = f"{run.run_id}|{dispatch.work_id}|{dispatch.queue}/{dispatch.priority}"
    pauses = []
    for _ in range(12):
        now = run.leases.redispatch(
            run.run_id, [(dispatch.work_id, f"{dispatch.queue}/{dispatch.priority}")]
        ).dispatches[0]
        record = run.record(dispatch.work_id)
        assert record.dispatched_at is not None
        pauses.append(store.client.zscore(run.keys["unclaimed"], member) - record.dispatched_at)
    seconds = store.settings.redispatch_seconds
    longest = store.settings.redispatch_max_seconds
    assert pauses == [min(longest, seconds * 2**k) * 1000 for k in range(1, 13)]

    work = run.ask(now)
    assert isinstance(work, Work)
    run.commit(work, failed(0))
    run.leases.redispatch(run.run_id, [(dispatch.work_id, f"{dispatch.queue}/{dispatch.priority}")])
    record = run.record(dispatch.work_id)
    assert record.dispatched_at is not None
    assert store.client.zscore(run.keys["unclaimed"], member) - record.dispatched_at == min(longest, seconds * 2) * 1000


def test_what_is_no_longer_unclaimed_leaves_the_index(run: DrivenRun, store: Store) -> None:
    fan(run, "A", "A")
    first, second = run.dispatches
    run.claim("work")
    ring = f"{run.run_id}|{first.work_id}|umbel/0"
    store.client.zadd(run.keys["unclaimed"], {ring: 1, f"gone|{second.work_id}|umbel/0": 1})
    store.client.hincrby(run.keys["unclaimed_counts"], "umbel/0", 2)

    assert run.leases.redispatch(run.run_id, [(first.work_id, "umbel/0")]).dispatches == ()
    assert store.client.zscore(run.keys["unclaimed"], ring) is None
    assert run.content("unclaimed_counts") == {b"umbel/0": b"2"}


def test_the_count_of_the_unclaimed_follows_the_index(run: DrivenRun, store: Store) -> None:
    fan(run, *"AAAG")
    assert run.content("unclaimed_counts") == {b"umbel/0": b"3", b"gpu/0": b"1"}
    work = run.claim("work")
    run.claim("gpu")
    assert run.content("unclaimed_counts") == {b"umbel/0": b"2"}
    run.commit(work, stop())
    for shard in (run.keys.shard,):
        names = [name.decode().split("|") for name, _ in run.content("unclaimed")]
        run.leases.redispatch(run.run_id, [(work_id, line) for _, work_id, line in names])
        assert store.client.exists(store.keys.in_shard(shard, "unclaimed_counts")) == 0
