"""Checkpoints in the journals of running runs: what is rebuilt from them, and how much of the past is kept."""

from __future__ import annotations

from typing import Any

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event
from support.store.mortal import Died, mortal_store
from support.store.packed_runs import all_entries, assert_holds, is_packed, listed, now, runs_of
from support.store.verb_cases import CASES, PLAN
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.history.filling import fill
from umbel.orchestration.history.packer import Packer
from umbel.orchestration.history.packing import chunks
from umbel.orchestration.history.packing.checkpoints import packed
from umbel.orchestration.history.packing.chunks import checkpoint_run, most_again, pack_run
from umbel.orchestration.history.points import Where, point_at, points
from umbel.orchestration.history.rebuild import rebuilt, rebuilt_contents
from umbel.orchestration.history.scratch import LIFE_MS
from umbel.orchestration.history.verify import differences
from umbel.orchestration.model.errors import HistoryDamaged, HistoryUnavailable
from umbel.orchestration.model.work_item import FannedOut, Returned
from umbel.orchestration.snapshots.take import contents
from umbel.orchestration.state.redis_hash import Change, StateHash
from umbel.orchestration.store.journal import extent


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("advance", "purge", "pack")])
def test_whatever_is_done_to_a_run_after_a_checkpoint_is_rebuilt_from_it(store: Store, name: str) -> None:
    case = CASES[name](store)
    before = {run_id: store.call(checkpoint_run, store, run_id) for run_id in runs_of(store)}
    case.ask()

    for run_id in before:
        if not store.client.exists(store.locate(run_id)["run"]):
            continue
        assert_holds(store, run_id)
        live, past = store.call(contents, store, run_id), all_entries(store, run_id)

        async def again(store: Any, run_id: str, past: list[Any]) -> Any:
            async with rebuilt(store, run_id, past) as scratch:
                return await rebuilt_contents(scratch)

        found = list(differences(store.call(again, store, run_id, past), live))
        assert not found, "\n".join(map(str, found))


def names_in(store: Store, run: DrivenRun, begin: str) -> list[str]:
    return sorted(name.decode() for name in store.client.hkeys(run.keys["packed"]) if name.decode().startswith(begin))


def counting(store: Store, turns: int) -> DrivenRun:
    """Return a run whose state was written `turns` times."""
    run = DrivenRun(store, PLAN).start()
    write(store, run, turns)
    return run


def write(store: Store, run: DrivenRun, turns: int) -> None:
    state = store.over(StateHash, run.run_id, run.run_id)
    for _ in range(turns):
        state.write(Change("set", {"n": str(store.call(extent, store, run.run_id).last).encode()}))


def with_settings(store: Store, **changed: Any) -> None:
    store.wrapped.settings = store.settings.model_copy(update=changed)


def state_at(store: Store, run: DrivenRun, seq: int) -> Any:
    return store.call(point_at, store, run.run_id, Where(seq=seq)).state()


def test_a_running_run_with_a_long_journal_is_packed_with_a_checkpoint(store: Store) -> None:
    with_settings(store, history_checkpoint_every=10)
    long, short = counting(store, 12), counting(store, 3)

    assert store.call(Packer(store.wrapped).turn, now(store)) == 1

    [name] = names_in(store, long, "@13@")
    assert store.client.xlen(long.keys["journal"]) == 0
    assert store.client.pttl(long.keys["packed"]) == -1
    assert not is_packed(store, short)
    write(store, long, 1)
    assert state_at(store, long, 14) == {"n": 13}
    assert state_at(store, long, 5) == {"n": 4}
    assert_holds(store, long.run_id)
    stored = store.client.hget(long.keys["packed"], name)
    store.client.hset(long.keys["packed"], name, stored[:-2] + b"ab")
    with pytest.raises(HistoryDamaged, match="The checkpoint at entry 13"):
        state_at(store, long, 14)
    with pytest.raises(HistoryDamaged, match="The checkpoint at entry 13"):
        assert_holds(store, long.run_id)


def test_a_checkpoint_that_is_not_what_the_journal_leads_to_is_found(store: Store) -> None:
    run = counting(store, 3)
    store.client.hset(run.keys["run"], "live", 7)  # bypassing the journal
    store.call(checkpoint_run, store, run.run_id)
    store.client.hset(run.keys["run"], "live", 1)

    with pytest.raises(HistoryDamaged, match=r"checkpoint at entry 4 .* first difference is in run\[live\]"):
        assert_holds(store, run.run_id)


def test_a_point_is_the_same_by_number_by_instant_and_in_a_list(store: Store) -> None:
    run = counting(store, 6)
    for _ in range(2):
        store.call(checkpoint_run, store, run.run_id)
        write(store, run, 6)
    run.commit(run.claim("begin"), FannedOut((event("A"), event("A"))))

    async def listed_points(store: Any) -> list[Any]:
        return await listed(points(store, run.run_id))

    found = store.call(listed_points, store)
    assert len(names_in(store, run, "@")) == 2
    for point in found:
        at_it = store.call(point_at, store, run.run_id, Where(seq=point.seq))
        then = store.call(point_at, store, run.run_id, Where(at=point.at))
        assert {name: vars(at_it)[name] for name in vars(point)} == vars(point)
        assert then.seq == max(each.seq for each in found if each.at <= point.at)


def test_a_long_replay_stores_checkpoints(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 5)
    with_settings(store, history_checkpoint_every=5)
    run = counting(store, 60)
    store.call(pack_run, store, run.run_id)

    assert most_again(store.settings) == 20
    assert state_at(store, run, 53) == {"n": 52}

    assert [name.split("@")[1] for name in names_in(store, run, "@")] == ["20", "40"]
    assert state_at(store, run, 53) == {"n": 52}
    assert_holds(store, run.run_id)


def test_no_point_of_what_is_packed_is_far_from_a_checkpoint_also_where_the_run_was_too_fast_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 10)
    with_settings(store, history_checkpoint_every=10, history_pack_after_seconds=0.001)
    packer, most = Packer(store.wrapped), most_again(store.settings)
    running, ended = counting(store, 3 * most), counting(store, 3 * most)
    store.finish(ended.run_id, "cancelled", event("x"))

    for run in (running, ended):
        wait_for_checkpoints(store, packer, run, most)
        assert [state_at(store, run, seq)["n"] for seq in range(2, 3 * most, most // 3)] == [
            seq - 1 for seq in range(2, 3 * most, most // 3)
        ]
        assert_holds(store, run.run_id)


def wait_for_checkpoints(store: Store, packer: Packer, run: DrivenRun, most: int) -> None:
    """Let a worker take turns until no stretch is longer than `most` entries."""

    def is_filled() -> bool:
        store.call(packer.turn, now(store) + 5)
        stretches = list(store.call(packed, store, run.run_id).stretches())
        return bool(stretches) and all(until - since <= most for since, until in stretches)

    eventually(is_filled, f"no point of {run.run_id} is more than {most} entries behind a checkpoint")


def test_a_wide_fan_out_is_not_done_again_for_checkpoints(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 5)
    monkeypatch.setattr(chunks, "CHECKPOINT_WORK", 300)
    with_settings(store, history_checkpoint_every=10)
    run = DrivenRun(store, PLAN).start()
    run.commit(run.claim("begin"), FannedOut(tuple(event("A", i) for i in range(301))))
    write(store, run, most_again(store.settings))
    store.call(pack_run, store, run.run_id)

    assert store.call(fill, store, run.run_id) is False

    assert not names_in(store, run, "@")


@pytest.mark.parametrize("keep", ["last:8", "0.001"])
def test_only_as_much_history_is_kept_as_is_wanted_and_that_is_said(store: Store, keep: str) -> None:
    with_settings(store, history_keep=keep)
    run = counting(store, 9)
    for _ in range(3):
        store.call(checkpoint_run, store, run.run_id)
        write(store, run, 10)
    store.call(checkpoint_run, store, run.run_id)

    first = store.call(extent, store, run.run_id).first

    assert first in ({"last:8": (31,), "0.001": (31, 41)}[keep])
    assert state_at(store, run, 40) == {"n": 39}
    with pytest.raises(HistoryUnavailable, match=f"its history is kept from {first} to 40"):
        state_at(store, run, 12)
    assert_holds(store, run.run_id)
    write(store, run, 1)
    assert_holds(store, run.run_id)


@pytest.mark.parametrize("bound", [{"journal_max_entries": 25}, {"journal_max_bytes": 1_500}])
def test_packed_entries_are_bounded_as_those_of_the_journal_are(
    store: Store, monkeypatch: pytest.MonkeyPatch, bound: dict[str, int]
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 10)
    run = counting(store, 9)
    for _ in range(5):
        store.call(checkpoint_run, store, run.run_id)
        write(store, run, 10)
    with_settings(store, **bound)
    store.call(checkpoint_run, store, run.run_id)

    kept = store.call(extent, store, run.run_id)

    assert kept.first in (31, 41, 51)
    assert [entry.seq for entry in all_entries(store, run.run_id)] == list(range(kept.first, 61))
    assert state_at(store, run, 60) == {"n": 59}
    assert_holds(store, run.run_id)


def test_scratch_keys_of_a_rebuild_always_have_a_ttl(store: Store) -> None:
    run = DrivenRun(store, PLAN).start()
    run.commit(run.claim("begin"), FannedOut((event("A"), event("A"))))
    run.commit(run.claim("work"), Returned(event("B")))
    store.call(checkpoint_run, store, run.run_id)
    past = all_entries(store, run.run_id)

    async def lives(store: Any) -> dict[bytes, int]:
        async with rebuilt(store, run.run_id, past) as scratch:  # as at the checkpoint: no entry is replayed
            keys = await store.command("test", "KEYS", f"*rebuilt:*{run.run_id}*")
            assert scratch.keys["run"].encode() in keys
            return {key: await store.command("test", "PTTL", key) for key in keys}

    assert all(0 < life <= LIFE_MS for life in store.call(lives, store).values())
    assert not [*store.client.scan_iter(f"*rebuilt:*{run.run_id}*")]


def test_without_values_in_the_journal_no_checkpoint_is_made(store: Store) -> None:
    with_settings(store, history="summary")
    run = counting(store, 4)

    store.call(checkpoint_run, store, run.run_id)

    assert is_packed(store, run)
    assert not names_in(store, run, "@")
    assert len(all_entries(store, run.run_id)) == 5


@pytest.mark.parametrize("applied", [False, True])
def test_a_checkpoint_that_was_cut_off_at_any_moment_is_made_by_the_next_process(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 5)
    dies_at, completed = 0, False
    while not completed:
        dies_at += 1
        run = counting(store, 12)
        other = mortal_store(store.client, settings, dies_at, applied=applied)
        try:
            other.call(checkpoint_run, other, run.run_id)
            completed = True
        except Died:
            pass
        write(store, run, 2)  # the run continues
        assert state_at(store, run, 9) == {"n": 8}
        assert_holds(store, run.run_id)

        store.call(checkpoint_run, store, run.run_id)

        assert names_in(store, run, "@15@")
        assert store.client.xlen(run.keys["journal"]) == 0
        write(store, run, 1)
        assert [state_at(store, run, seq)["n"] for seq in (9, 14, 16)] == [8, 13, 15]
        assert_holds(store, run.run_id)
    assert dies_at > 8
