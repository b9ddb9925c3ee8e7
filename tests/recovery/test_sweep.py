"""The sweep: what was lost is found, what only waits is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store, blocking_sweep
from support.store.driving import DrivenRun, dump, event, failed, plan_of, step, stop, waiting
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine import trimming
from umbel.orchestration.engine.due import BATCH
from umbel.orchestration.engine.sweep import MOST, PAGE, PAGES
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.work_item import FannedOut, Returned, Work
from umbel.orchestration.store.replies import Dispatch

PLAN = plan_of(
    step("begin", START),
    step("work", "A", num_workers=100),
    step("urgent", "U", num_workers=100, priority=9),
    step("gpu", "G", num_workers=100, queue="gpu"),
)


class Sent:
    """A dispatcher that keeps what it was to ring."""

    def __init__(self) -> None:
        self.sent: list[Dispatch] = []

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        self.dispatch_soon(plan, dispatches)

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        assert all(dispatch.step in plan.by_name for dispatch in dispatches)
        self.sent.extend(dispatches)

    def steps(self) -> list[str]:
        """Steps dispatched since the last call."""
        found, self.sent = sorted(dispatch.step for dispatch in self.sent), []
        return found


@pytest.fixture
def dispatches() -> Sent:
    return Sent()


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, PLAN)


def sweeping(run: DrivenRun, dispatches: Sent, backlog: Callable[[str], int | None] = lambda _: 0) -> int:
    return blocking_sweep(run.store, dispatches, backlog).sweep(everything=True)


def fan(run: DrivenRun, *names: str) -> None:
    run.start()
    run.commit(run.claim("begin"), FannedOut(tuple(event(name) for name in names)))


def dispatched(run: DrivenRun, dispatch: Dispatch, at: int) -> None:
    """Pretend that this was dispatched, and its patience over, at an instant."""
    member = f"{run.run_id}|{dispatch.work_id}|{dispatch.queue}/{dispatch.priority}"
    assert run.store.client.zscore(run.keys["unclaimed"], member) is not None
    run.store.client.zadd(run.keys["unclaimed"], {member: at})


def claimed_until(run: DrivenRun, line: str, at: int) -> None:
    """Pretend that the newest claim from a queue was of a dispatch of this instant."""
    run.store.client.hset(run.keys["watermark"], line, at)


# -- the ring ----------------------------------------------------------------------------------------------------------


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


# -- the whole pass ----------------------------------------------------------------------------------------------------


def test_a_pass_settles_timers_owners_and_ended_runs(run: DrivenRun, dispatches: Sent, store: Store) -> None:
    run.start(timeout_seconds=100)
    run.commit(run.claim("begin"), FannedOut((event("A"), event("A"), event("A"))))
    delayed, lost, asleep = run.claim("work"), run.claim("work", owner="dies"), run.claim("work")
    run.commit(delayed, failed(100))
    run.commit(asleep, waiting(asleep, timeout_seconds=100))
    run.make_due(f"retry|{delayed.work_id}")
    run.make_due(f"waiter|{asleep.work_id}|w")
    store.client.zadd(run.keys["leases"], {"dies": 1})

    assert sweeping(run, dispatches) == 3
    assert {dispatch.work_id for dispatch in dispatches.sent} == {delayed.work_id, lost.work_id, asleep.work_id}
    assert store.client.zscore(run.keys["leases"], "dies") is None

    run.make_due("timeout")
    sweeping(run, dispatches)
    ended = store.run(run.run_id)
    assert ended.status == "timed_out"
    assert ended.ending is not None
    assert ended.ending.value()["active_steps"] == ["work"]
    assert ended.ending.value()["timeout"] >= 0  # it has none among its options: how long it has lasted


def test_a_pass_gives_the_keys_of_ended_runs_their_lifetime(run: DrivenRun, dispatches: Sent, store: Store) -> None:
    run.start()
    work = run.claim("begin")
    run.flush(work, 1, ("x", event("A")))
    store.finish(run.run_id, "cancelled", event("x"))

    sweeping(run, dispatches)

    left = {key: store.client.pttl(key) for key in store.client.scan_iter(match=f"*{run.run_id}*")}
    assert all(milliseconds > 0 for milliseconds in left.values()), left


def test_one_sweep_per_shard_and_period(run: DrivenRun, dispatches: Sent, store: Store, settings: Settings) -> None:
    patient = blocking_store(settings.model_copy(update={"sweep_seconds": 600}), store.client)
    fan(run, "A")
    dispatched(run, run.dispatches[0], 1)

    assert blocking_sweep(patient, dispatches, lambda _: 0).sweep() == 1
    assert dispatches.steps() == ["work"]
    dispatched(run, run.dispatches[0], 1)
    assert blocking_sweep(patient, dispatches, lambda _: 0).sweep() == 0
    assert dispatches.steps() == []


def test_a_process_that_cannot_take_up_everything_keeps_the_turn_until_another_has_it(
    run: DrivenRun, dispatches: Sent, store: Store, settings: Settings
) -> None:
    patient = blocking_store(settings.model_copy(update={"sweep_seconds": 600}), store.client)
    store.client.zadd(run.keys["leases"], {f"dead {n}": 1 for n in range(2 * BATCH + 10)})
    first, second = (blocking_sweep(patient, dispatches, lambda _: 0) for _ in range(2))

    assert (first.sweep(), second.sweep(), first.sweep()) == (BATCH, 0, BATCH)
    assert first.is_behind

    assert second.sweep(everything=True) == 10
    store.client.zadd(run.keys["leases"], {"dead": 1})
    assert first.sweep() == 0
    assert not first.is_behind


def test_thousands_of_timers_are_taken_up_in_parts_between_which_all_else_is_looked_at(
    dispatches: Sent, store: Store, settings: Settings
) -> None:
    many = blocking_store(
        settings.model_copy(update={"shards": 8, "key_prefix": f"{settings.key_prefix}many"}), store.client
    )
    for n in range(10 * BATCH):
        store.client.zadd(many.locate(f"unknown-{n}")["timers"], {f"retry|unknown-{n}|w": 0})
    sweep = blocking_sweep(many, dispatches, lambda _: 0)

    assert sweep.sweep(everything=True) == MOST
    store.client.zadd(many.keys.in_shard(0, "leases"), {"dead": 1})
    assert sweep.sweep() == MOST + 1
    while sweep.is_behind:
        sweep.sweep()
    assert not any(store.client.exists(many.keys.in_shard(shard, "timers")) for shard in range(8))


def test_a_timer_does_not_wait_for_all_that_were_due_before_it(run: DrivenRun, dispatches: Sent, store: Store) -> None:
    run.start()
    work = run.claim("begin")
    run.commit(work, failed(100))
    run.make_due(f"retry|{work.work_id}")
    timer = f"retry|{run.run_id}|{work.work_id}"
    store.client.zadd(run.keys["timers"], {timer: 2, **{f"retry|unknown-{n}|w": 1 for n in range(3 * BATCH)}})

    sweeping(run, dispatches)

    assert dispatches.steps() == ["begin"]
    assert store.client.zcard(run.keys["timers"]) >= BATCH


def test_one_broken_timer_does_not_stop_the_others(
    run: DrivenRun, dispatches: Sent, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run.start()
    work = run.claim("begin")
    run.commit(work, failed(100))
    run.make_due(f"retry|{work.work_id}")
    store.client.zadd(run.keys["timers"], {"nonsense": 0})

    sweeping(run, dispatches)

    assert dispatches.steps() == ["begin"]
    assert "nonsense" in caplog.text


def test_as_many_broken_timers_as_a_pass_takes_up_do_not_stop_the_others(
    run: DrivenRun, dispatches: Sent, store: Store
) -> None:
    run.start()
    work = run.claim("begin")
    run.commit(work, failed(100))
    run.make_due(f"retry|{work.work_id}")
    store.client.zadd(run.keys["timers"], {f"nonsense {n}": 0 for n in range(BATCH)})
    sweep = blocking_sweep(store, dispatches, lambda _: 0)

    sweep.sweep(everything=True)
    sweep.sweep(everything=True)

    assert dispatches.steps() == ["begin"]


def test_the_overdue_waits_of_a_run_whose_restoration_was_given_up_do_not_stop_the_timers_of_others(
    run: DrivenRun, dispatches: Sent, store: Store
) -> None:
    run.start()
    work = run.claim("begin")
    run.commit(work, failed(100))
    given_up = next(keys for n in range(99) if (keys := store.locate(f"given-up-{n}")).shard == run.keys.shard)
    store.client.hset(given_up["run"], mapping={"status": "restoring", "nonce": "n", "parts": 1})
    store.client.zadd(run.keys["timers"], {f"waiter|{given_up.run_id}|w{n}|w": 0 for n in range(3 * BATCH)})
    run.make_due(f"retry|{work.work_id}")

    for _ in range(4):
        blocking_sweep(store, dispatches, lambda _: 0).sweep(everything=True)

    assert dispatches.steps() == ["begin"]


def test_a_run_whose_keys_were_deleted_is_swept_out_of_the_indexes(
    run: DrivenRun, dispatches: Sent, client: Client
) -> None:
    run.start(timeout_seconds=100)
    work = run.claim("begin", owner="dies")
    run.commit(work, failed(100))
    other = DrivenRun(run.store, PLAN, "other").start()
    other.claim("begin", owner="dies")
    run.make_due(f"retry|{work.work_id}")
    run.make_due("timeout")
    for each in (run, other):
        client.delete(*client.scan_iter(match=f"*{each.run_id}*"))
        client.zadd(each.keys["leases"], {"dies": 1}, xx=True)

    sweeping(run, dispatches)
    sweeping(run, dispatches)

    left = dump(client, run.store.settings.key_prefix, without=("swept_at",))
    assert {name.rpartition(":")[2] for name in left} <= {
        *("gone", "running", "counters", "watermark", "deployment"),
        PLAN.digest,
    }


def test_indexes_forget_ended_runs_after_their_retention(run: DrivenRun, dispatches: Sent, store: Store) -> None:
    run.start()
    run.commit(run.claim("begin"), stop())
    sweeping(run, dispatches)
    assert len(store.runs()) == 1

    store.client.zadd(run.keys["runs:completed"], {run.run_id: 1})
    sweeping(run, dispatches)
    assert len(store.runs()) == 1  # it is kept longer than the settings say

    store.client.delete(run.keys["run"])
    sweeping(run, dispatches)

    assert run.content("runs:completed") is None


def test_indexes_forget_what_lies_behind_any_number_of_runs_that_are_kept_longer(
    run: DrivenRun, dispatches: Sent, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "_PAGE", 1)
    monkeypatch.setattr(trimming, "_PAGES", 2)
    index = run.keys["runs:failed"]
    names = [name for name in map(str, range(40)) if store.locate(name)["runs:failed"] == index][:5]
    for kept in names[:3]:
        store.client.hset(store.locate(kept)["run"], "status", "failed")
    sweep = blocking_sweep(store, dispatches, lambda _: 0)
    store.client.zadd(index, {name: n + 1 for n, name in enumerate(names)})

    def left_after_a_pass() -> list[str]:
        sweep.sweep(everything=True)
        return [name.decode() for name in store.client.zrange(index, 0, -1)]

    assert left_after_a_pass() == names
    assert left_after_a_pass() == names[:3]


def test_sweeping_twice_finds_nothing_more(run: DrivenRun, dispatches: Sent, store: Store) -> None:
    fan(run, "A", "A")
    run.claim("work", owner="dies")
    store.client.zadd(run.keys["leases"], {"dies": 1})
    sweeping(run, dispatches)
    before = dump(store.client, store.settings.key_prefix, without=("swept_at",))

    assert sweeping(run, dispatches) == 0
    assert dump(store.client, store.settings.key_prefix, without=("swept_at",)) == before
    assert run.play(dict.fromkeys(["work"], lambda _: Returned(None))) == 1
