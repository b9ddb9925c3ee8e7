"""Readers with lost messages, lost connections, a killed Redis, a trimmed log and their own slowness."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.driving import event
from support.store.streams import (
    PATIENCE,
    PROGRESS,
    KillableRedis,
    OwnHub,
    Reading,
    Telling,
    Wire,
    is_followed,
    numbers,
    store_on,
    types,
)
from umbel.orchestration.model.commands import Trace
from umbel.orchestration.model.envelope import STOP
from umbel.orchestration.model.errors import StoreUnavailable
from umbel.orchestration.streams.reader import StreamHub
from umbel.orchestration.streams.watch import EndedWatch
from umbel.workers.embedded.configuration import free_port

#: So long that polling finds nothing.
NEVER = 600.0


@pytest.fixture
def store(redis: KillableRedis) -> Iterator[Store]:
    store = store_on(redis.url, f"t{secrets.token_hex(6)}", stream_max_events=100)
    yield store
    store.client.close()


@pytest.fixture
def hub(store: Store) -> Iterator[StreamHub]:
    hub = OwnHub(store, poll_seconds=NEVER)
    yield hub
    hub.close()


def cut(store: Store) -> None:
    """Cut every subscribed connection."""
    store.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


# -- lost messages -----------------------------------------------------------------------------------------------------


def test_a_gap_in_the_numbers_is_healed_from_the_log_in_order(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    run.tell(1)
    assert reading.number() == 1
    eventually(lambda: is_followed(run), "it hears live events")

    run.tell_unheard(2)
    run.tell_unheard(3)
    run.tell(4)

    assert [reading.number() for _ in range(3)] == [2, 3, 4]
    run.end()
    assert types(reading.rest()) == [STOP]


def test_silence_is_healed_by_looking_now_and_then(store: Store, run: Telling) -> None:
    hub = OwnHub(store, poll_seconds=0.05)
    reading = Reading(hub.reader(run.run_id))
    run.tell(1)
    assert reading.number() == 1

    run.tell_unheard(2)

    assert reading.number() == 2
    hub.close()


def test_the_end_is_noticed_though_its_messages_are_lost(store: Store, run: Telling) -> None:
    hub = OwnHub(store, poll_seconds=0.05)
    reading = Reading(hub.reader(run.run_id))
    ended: list[str] = []
    waiter = threading.Thread(target=lambda: ended.append(hub.wait_ended(run.run_id).status))
    waiter.start()
    run.tell(1)
    assert reading.number() == 1

    with store.client.pipeline(transaction=True) as pipe:
        pipe.hset(run.keys["run"], "status", "cancelled")
        pipe.execute()

    assert reading.rest() == []
    waiter.join(PATIENCE)
    assert ended == ["cancelled"]
    hub.close()


def test_what_is_published_while_the_connection_is_cut_is_read_once_and_in_order(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    watched: list[str] = []
    EndedWatch(hub, watched.append)
    for n in range(60):
        if n % 10 == 5:
            eventually(lambda: is_followed(run), "it hears live events")
            cut(run.store)
        run.tell(n)
    eventually(lambda: is_followed(run), "it hears live events")
    run.end()

    assert numbers(reading.rest()) == list(range(60))
    eventually(lambda: watched == [run.run_id], "the watch hears again")


async def test_readers_and_waiters_on_a_loop_survive_a_cut(hub: StreamHub, run: Telling) -> None:
    async def read() -> list[int]:
        return numbers([found async for found in hub.reader(run.run_id).aevents()])

    reader = asyncio.create_task(read())
    waiter = asyncio.create_task(hub.await_ended(run.run_id))
    await asyncio.to_thread(eventually, lambda: is_followed(run), "it hears live events")
    await asyncio.to_thread(run.tell, 1)
    await asyncio.to_thread(cut, run.store)
    await asyncio.to_thread(run.tell, 2)
    await asyncio.to_thread(run.end)

    assert await asyncio.wait_for(reader, PATIENCE) == [1, 2]
    assert (await asyncio.wait_for(waiter, PATIENCE)).status == "completed"


def test_a_connection_that_answers_is_kept_and_one_that_went_dead_is_replaced(
    redis: KillableRedis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.orchestration.streams.pubsub.KEEPALIVE", 0.2)
    wire, run = Wire(redis.port), Telling(store)
    afar = store_on(wire.url, store.settings.key_prefix)
    hub = OwnHub(afar, poll_seconds=0.05, silence_seconds=0.5)
    reading = Reading(hub.reader(run.run_id))

    def connections() -> set[str]:
        return {known["id"] for known in store.client.client_list(_type="pubsub")}

    def pings() -> int:
        return int(store.client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

    eventually(lambda: is_followed(run), "it hears live events")
    first, pinged = connections(), pings()
    eventually(lambda: pings() >= pinged + 3, "the connection was asked now and then")
    assert connections() == first

    wire.go_dead()
    eventually(lambda: bool(connections() - first), "there is a new connection")
    run.tell(1)
    assert reading.number() == 1
    hub.close()
    afar.client.close()
    wire.close()


# -- Redis itself ------------------------------------------------------------------------------------------------------


async def test_a_killed_and_restarted_redis_interrupts_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    redis = KillableRedis(tmp_path, is_durable=True)
    redis.start()
    store = store_on(redis.url, "t")
    hub = OwnHub(store)
    run = Telling(store)

    async def read() -> list[int]:
        return numbers([found async for found in hub.reader(run.run_id).aevents()])

    blocking = Reading(hub.reader(run.run_id))
    reader, waiter = asyncio.create_task(read()), asyncio.create_task(hub.await_ended(run.run_id))
    await asyncio.to_thread(run.tell, 1)
    assert await asyncio.to_thread(blocking.number) == 1
    await asyncio.to_thread(eventually, lambda: is_followed(run), "it hears live events")

    with caplog.at_level(logging.INFO, "umbel.streams"):
        redis.kill()
        await asyncio.to_thread(eventually, lambda: "are interrupted" in caplog.text, "the outage is noticed")
        await asyncio.to_thread(redis.start)
        await asyncio.to_thread(run.tell, 2)
        assert await asyncio.to_thread(blocking.number) == 2
        await asyncio.to_thread(eventually, lambda: "are back" in caplog.text, "the recovery is noticed")
    assert caplog.text.count("are interrupted") == 1
    await asyncio.to_thread(run.tell, 3)
    await asyncio.to_thread(run.end)

    assert await asyncio.wait_for(reader, PATIENCE) == [1, 2, 3]
    assert (await asyncio.wait_for(waiter, PATIENCE)).status == "completed"
    assert numbers(await asyncio.to_thread(blocking.rest)) == [3]
    hub.close()
    store.client.close()
    redis.kill()


def test_a_redis_that_is_not_there_to_begin_with_is_an_error_that_says_where() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    store = store_on(url, "t")
    store.patience_seconds = 0.1
    hub = OwnHub(store, poll_seconds=0.05)

    for call in (lambda: next(hub.reader("run").events()), lambda: hub.wait_ended("run")):
        with pytest.raises(
            StoreUnavailable,
            match=r"127\.0\.0\.1:\d+/0 did not answer within 0.1 s while umbel was trying to follow run 'run'",
        ) as caught:
            call()
        assert "secret" not in str(caught.value)
    hub.close()


def test_a_reader_whose_time_is_over_during_an_outage_says_that_its_time_is_over(tmp_path: Path) -> None:
    redis = KillableRedis(tmp_path)
    redis.start()
    store = store_on(redis.url, "t")
    store.patience_seconds = 0.0
    hub = OwnHub(store, poll_seconds=0.05)
    run = Telling(store)
    stream = hub.reader(run.run_id).events(timeout=0.2)
    run.tell(1)
    assert numbers([next(stream)]) == [1]

    redis.kill()

    with pytest.raises(TimeoutError, match=r"published nothing for 0\.2 s after number 1"):
        next(stream)
    hub.close()
    store.client.close()


def test_a_redis_set_back_is_followed_from_where_it_is(
    store: Store, run: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    hub = OwnHub(store, poll_seconds=0.05)
    reading = Reading(hub.reader(run.run_id))
    run.tell(1)
    assert reading.number() == 1
    before = {name: store.client.dump(run.keys[name]) for name in ("run", "work", "stream")}
    run.tell(2, 3)
    assert [reading.number(), reading.number()] == [2, 3]

    with store.client.pipeline(transaction=True) as pipe:
        for name, content in before.items():
            pipe.restore(run.keys[name], 0, content, replace=True)
        pipe.execute()
    eventually(lambda: "Redis was set back" in caplog.text, "the reader has noticed")
    run.batches = 1
    run.tell(20)
    run.end()

    assert numbers(reading.rest()) == [20]
    hub.close()


# -- the log's bound ---------------------------------------------------------------------------------------------------


def test_a_reader_that_comes_after_the_log_was_trimmed_is_warned(
    hub: StreamHub, run: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    for start in range(0, 600, 50):
        run.tell(*range(start, start + 50))
    run.end()

    reader = hub.reader(run.run_id)
    found = numbers(reader.events())

    assert found == list(range(found[0], 600))
    assert 100 <= len(found) < 600
    assert reader.fell_behind
    assert reader.first_missing == 1  # number 0 is the start of the step
    assert f"a reader of run {run.run_id} fell behind the log" in caplog.text
    assert "from number 1 on" in caplog.text


def test_a_reader_within_the_bound_of_a_trimmed_log_is_not_warned(hub: StreamHub, run: Telling) -> None:
    for start in range(0, 600, 50):
        run.tell(*range(start, start + 50))
    run.end()
    oldest = next(hub.reader(run.run_id).events())

    for after in (oldest.seq - 1, oldest.seq, oldest.seq + 1):
        reader = hub.reader(run.run_id, after=after)
        assert numbers(reader.events())[-1] == 599
        assert not reader.fell_behind


def test_trimmed_step_states_concern_only_their_readers(hub: StreamHub, run: Telling) -> None:
    run.tell(1)
    for _ in range(12):
        run.apply(*[Trace("go", "preparing", "<enqueued>", "app.A")] * 50)
    run.tell(2)
    run.end()

    plain, thorough = hub.reader(run.run_id), hub.reader(run.run_id, internal=True)

    assert numbers(plain.events()) == [1, 2]
    assert not plain.fell_behind
    assert numbers(thorough.events()) == [1, 2]
    assert thorough.fell_behind
    assert thorough.first_missing == 0


def test_trimmed_step_states_between_two_events_are_not_taken_for_events(hub: StreamHub, run: Telling) -> None:
    run.tell(*range(150))
    for _ in range(12):
        run.apply(*[Trace("go", "preparing", "<enqueued>", "app.A")] * 50)
    run.tell(150)
    run.end()

    reader = hub.reader(run.run_id, after=150)  # the last event before the step states

    assert numbers(reader.events()) == [150]
    assert not reader.fell_behind


# -- slow readers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_internal", [False, True])
def test_a_reader_slower_than_its_run_goes_back_to_the_log(redis: KillableRedis, is_internal: bool) -> None:
    store = store_on(redis.url, f"t{secrets.token_hex(6)}")
    hub = OwnHub(store, poll_seconds=NEVER, buffer_events=10)
    run = Telling(store)
    stream = hub.reader(run.run_id, internal=is_internal, types=[PROGRESS]).events()
    run.tell(0)
    got = numbers([next(stream)])
    following = threading.Thread(target=lambda: got.extend(numbers([next(stream)])))
    following.start()
    eventually(lambda: is_followed(run), "it hears live events")
    run.tell(1)
    following.join(PATIENCE)

    for start in range(2, 500, 20):  # meanwhile the reader is busy
        run.tell(*range(start, start + 20))
        run.apply(*[Trace("go", "preparing", "<enqueued>", "app.A")] * 20)
    following = stream.gi_frame.f_locals["following"]  # reads the local variable of the generator
    assert len(following._buffer) <= 10
    threading.Thread(target=run.end).start()
    got.extend(numbers(stream))

    assert got == list(range(502))
    hub.close()
    store.client.close()


def test_a_reader_that_is_overtaken_by_the_trimming_is_warned(hub: StreamHub, run: Telling) -> None:
    reader = hub.reader(run.run_id)
    stream = reader.events()
    run.tell(0)
    assert next(stream).envelope == event(PROGRESS, n=0)

    for start in range(1, 1001, 50):
        run.tell(*range(start, start + 50))
    run.end()
    rest = numbers(stream)

    assert rest == list(range(rest[0], 1001))
    assert rest[0] > 1
    assert reader.fell_behind
    assert reader.first_missing == 2
