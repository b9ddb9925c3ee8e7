"""A packed journal reads as if it were not packed, whatever is done to the run afterwards."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.blocking import blocking_store
from support.store.driving import DrivenRun, event
from support.store.packed_runs import all_entries, assert_holds, is_packed, listed, now, runs_of
from support.store.verb_cases import CASES, PLAN
from umbel.orchestration.connection import compression
from umbel.orchestration.connection import settings as settings_module
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.history import packer as packers
from umbel.orchestration.history.packer import Packer
from umbel.orchestration.history.packing import chunks
from umbel.orchestration.history.packing.checkpoints import read_checkpoint
from umbel.orchestration.history.packing.chunks import pack_run
from umbel.orchestration.history.points import Where, point_at, points
from umbel.orchestration.history.verify import verify
from umbel.orchestration.inspection.run_detail import read_detail
from umbel.orchestration.inspection.run_rows import read_rows
from umbel.orchestration.model.errors import ConfigurationError, HistoryDamaged
from umbel.orchestration.model.work_item import FannedOut
from umbel.orchestration.store import journal
from umbel.orchestration.store.journal import Extent, entries, extent, newest_entries
from umbel.orchestration.streams.log import read_page


def ended(store: Store) -> tuple[DrivenRun, str]:
    """Return a run that was cancelled, and one of its work items."""
    run = DrivenRun(store, PLAN).start()
    work = run.claim("begin")
    run.commit(work, FannedOut((event("A"), event("A"))))
    run.claim("work")
    store.finish(run.run_id, "cancelled", event("x"))
    return run, work.work_id


async def everything(store: Any, run_id: str) -> list[Any]:
    """Return everything that readers report about a run."""
    detail = await read_detail(store, run_id)
    return [
        await listed(entries(store, run_id)),
        await listed(newest_entries(store, run_id)),
        await listed(points(store, run_id)),
        await extent(store, run_id),
        (detail.began_with, detail.journal, detail.journal_left_out),
        await read_rows(store, [run_id]),
        await store.journal(run_id),
        (await point_at(store, run_id, Where(seq=2))).work(),
        await read_page(store, run_id, -1, with_traces=True),
    ]


@pytest.mark.parametrize("most", [500, 2])
def test_what_was_packed_is_read_as_before(store: Store, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", most)
    run, _ = ended(store)
    before = store.call(everything, store, run.run_id)

    assert store.call(pack_run, store, run.run_id) == before[0][-1]

    before[3] = Extent(1, len(before[0]), len(before[0]) + 1)
    assert store.client.xlen(run.keys["journal"]) == 0
    assert store.call(everything, store, run.run_id) == before
    assert store.client.pttl(run.keys["packed"]) == pytest.approx(store.client.pttl(run.keys["run"]), abs=1000)
    assert_holds(store, run.run_id)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("advance", "purge", "delete a session")])
def test_whatever_is_done_to_a_run_before_and_after_it_was_packed_is_rebuilt(store: Store, name: str) -> None:
    case = CASES[name](store)
    for run_id in runs_of(store):
        store.call(pack_run, store, run_id)
    case.ask()

    for run_id in runs_of(store):
        assert_holds(store, run_id)
        store.call(pack_run, store, run_id)
        assert_holds(store, run_id)


def test_a_run_that_is_taken_up_again_keeps_its_packed_past(store: Store) -> None:
    run, _ = ended(store)
    store.call(pack_run, store, run.run_id)

    assert store.revive(run.run_id, timeout_seconds=None).dispatches

    assert store.client.pttl(run.keys["packed"]) == -1
    assert_holds(store, run.run_id)
    store.finish(run.run_id, "cancelled", event("x"))
    assert store.client.pttl(run.keys["packed"]) > 0
    store.purge(run.run_id)
    assert not store.client.exists(run.keys["packed"])


def test_readers_lose_and_double_nothing_while_entries_are_packed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 3)
    monkeypatch.setattr(journal, "PAGE", 2)
    run, _ = ended(store)

    async def read(store: Any) -> tuple[list[int], list[int]]:
        there, back = [], []
        async for entry in entries(store, run.run_id):
            there.append(entry.seq)
            if entry.seq == 2:
                await pack_run(store, run.run_id)
        async for entry in newest_entries(store, run.run_id):
            back.append(entry.seq)
        return there, back

    there, back = store.call(read, store)

    assert there == list(range(1, len(there) + 1))
    assert back == there[::-1]


def test_reading_backwards_while_entries_are_packed_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 3)
    monkeypatch.setattr(journal, "PAGE", 2)
    run, _ = ended(store)
    total = store.client.xlen(run.keys["journal"])

    async def read(store: Any) -> list[int]:
        found = []
        async for entry in newest_entries(store, run.run_id):
            found.append(entry.seq)
            if len(found) == 1:
                await pack_run(store, run.run_id)
        return found

    assert store.call(read, store) == list(range(total, 0, -1))


def test_concurrent_packers_pack_a_run_once(store: Store) -> None:
    run, _ = ended(store)
    before = all_entries(store, run.run_id)

    async def both(store: Any) -> list[Any]:
        return list(await asyncio.gather(pack_run(store, run.run_id), pack_run(store, run.run_id)))

    assert sorted(store.call(both, store), key=bool) == [None, before[-1]]
    assert all_entries(store, run.run_id) == before


def test_a_chunk_that_was_damaged_is_named(store: Store) -> None:
    run, _ = ended(store)
    store.call(pack_run, store, run.run_id)
    [name] = [each for each in store.client.hkeys(run.keys["packed"]) if b"-" in each]
    stored = store.client.hget(run.keys["packed"], name)
    store.client.hset(run.keys["packed"], name, stored[:-3] + b"abc")

    for read in (lambda: store.call(verify, store, run.run_id), lambda: all_entries(store, run.run_id)):
        with pytest.raises(HistoryDamaged, match=f"Entries {name.decode()} of the journal of run {run.run_id!r}"):
            read()


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    """The maximum number of bytes that may be compressed."""
    monkeypatch.setattr(compression, "MOST_COMPRESSED", 1 << 20)
    return 1 << 20


@pytest.mark.parametrize("pack", [zlib.compress, compression.zstd.compress])
@pytest.mark.parametrize("times", [1, 50])
def test_what_would_unpack_to_any_size_is_refused_before_it_takes_the_memory(
    store: Store, most: int, times: int, pack: Callable[[bytes], bytes]
) -> None:
    run, _ = ended(store)
    store.call(pack_run, store, run.run_id)
    [name] = [each for each in store.client.hkeys(run.keys["packed"]) if b"-" in each]
    form, before, digest, _ = msgpack.unpackb(store.client.hget(run.keys["packed"], name))
    forged = pack(bytes(most * times + 1))
    store.client.hset(run.keys["packed"], name, msgpack.packb((form, before, digest, forged)))
    at = "@1@1"
    store.client.hset(run.keys["packed"], at, msgpack.packb((form, digest, forged)))

    tracemalloc.start()
    for read in (lambda: all_entries(store, run.run_id), lambda: store.call(read_checkpoint, store, run.run_id, at)):
        with pytest.raises(HistoryDamaged, match="more than 1,048,576 bytes"):
            read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * most


def test_what_was_compressed_with_zstd_is_read_whatever_the_readers_setting(store: Store, settings: Settings) -> None:
    run, _ = ended(store)
    before = all_entries(store, run.run_id)
    small = blocking_store(settings.model_copy(update={"history_compression": "zstd"}), store.client)
    small.call(pack_run, small, run.run_id)
    [name] = [each for each in store.client.hkeys(run.keys["packed"]) if b"-" in each]

    assert b"\x28\xb5\x2f\xfd" in store.client.hget(run.keys["packed"], name)
    assert all_entries(store, run.run_id) == before
    assert_holds(store, run.run_id)


def test_without_zstd_it_is_refused_as_a_setting_and_what_needs_it_says_how_to_read_it(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = ended(store)
    small = blocking_store(settings.model_copy(update={"history_compression": "zstd"}), store.client)
    small.call(pack_run, small, run.run_id)
    monkeypatch.setattr(compression, "zstd", None)
    monkeypatch.setattr(settings_module, "zstd", None)

    with pytest.raises(ConfigurationError, match=r"zstd, which this process lacks: install the extra umbel\[zstd\]"):
        Settings.from_environment({"UMBEL_HISTORY_COMPRESSION": "zstd"})
    with pytest.raises(HistoryDamaged, match=r"which this process lacks: install the extra umbel\[zstd\]"):
        all_entries(store, run.run_id)


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize("size", [0, 100, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("how", ["zlib", "zstd"])
def test_what_is_compressed_comes_back_at_any_size(how: compression.Compression, size: int) -> None:
    assert compression.decompressed(compression.compressed(bytes(size), how)) == bytes(size)


def test_an_id_that_is_used_again_does_not_meet_the_packed_past_of_a_run_before(store: Store) -> None:
    run, _ = ended(store)
    store.call(pack_run, store, run.run_id)
    kept = store.client.dump(run.keys["packed"])
    store.purge(run.run_id)
    store.client.restore(run.keys["packed"], 0, kept)  # left behind by a release that does not know the key
    again = DrivenRun(store, PLAN, run.run_id).start()

    before = all_entries(store, again.run_id)
    store.call(pack_run, store, again.run_id)

    assert all_entries(store, again.run_id) == before
    assert_holds(store, again.run_id)


@pytest.fixture
def packer(store: Store) -> Packer:
    """Packs at once everything that has already ended."""
    given = store.settings.model_copy(update={"history_pack_after_seconds": 0.001})
    store.wrapped.settings = given
    return Packer(store.wrapped)


def test_runs_that_ended_long_enough_ago_are_packed_each_once(store: Store, packer: Packer) -> None:
    runs = [ended(store)[0] for _ in range(3)]
    running = DrivenRun(store, PLAN).start()

    assert store.call(packer.turn, now(store) - 60_000) == 0
    packed = 0

    def all_packed() -> bool:
        """Take turns; a turn that takes too long leaves the rest to the next one."""
        nonlocal packed
        packed += store.call(packer.turn, now(store) + 5)
        return packed >= 3

    eventually(all_packed, "all that have ended are packed")
    assert packed == 3

    assert all(is_packed(store, run) for run in runs)
    assert not is_packed(store, running)
    late, _ = ended(store)
    eventually(lambda: store.call(packer.turn, now(store) + 10) == 1, "the one that ended since is packed")
    assert is_packed(store, late)


def test_many_runs_that_ended_at_one_instant_are_all_packed(
    store: Store, packer: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packers, "BATCH", 2)
    runs = [ended(store)[0] for _ in range(5)]
    instant = now(store) - 1000
    for run in runs:
        store.client.zadd(run.keys["runs:cancelled"], {run.run_id: instant})

    eventually(
        lambda: store.call(packer.turn, now(store)) == 0 and all(is_packed(store, run) for run in runs),
        "all of them are packed",
    )


def test_a_journal_that_cannot_be_packed_keeps_no_other_from_it(store: Store, packer: Packer) -> None:
    bad, good = ended(store)[0], ended(store)[0]
    store.client.set(bad.keys["packed"], "not a hash")

    eventually(lambda: store.call(packer.turn, now(store) + 5) == 2, "both were looked at")

    assert is_packed(store, good)
    assert store.client.xlen(bad.keys["journal"]) > 0


def test_nothing_is_packed_where_that_is_switched_off(store: Store) -> None:
    store.wrapped.settings = store.settings.model_copy(update={"history_pack_after_seconds": 0.0})
    ended(store)

    assert store.call(Packer(store.wrapped).turn, now(store) + 100_000) == 0
