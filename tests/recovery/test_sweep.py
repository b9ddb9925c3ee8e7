"""A pass of the sweep: timers, leases, ended runs, and which process sweeps."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store, blocking_sweep
from support.store.driving import DrivenRun, dump, event, failed, stop, waiting
from support.store.sweeping import PLAN, Sent, dispatched, fan, sweeping
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.engine import trimming
from umbel.orchestration.engine.due import BATCH
from umbel.orchestration.engine.sweep import MOST
from umbel.orchestration.model.work_item import FannedOut, Returned


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
    assert ended.ending.value()["timeout"] >= 0  # its options have none, so this is how long it lasted


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
