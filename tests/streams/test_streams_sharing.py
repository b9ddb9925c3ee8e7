"""One connection for all readers, waiters and watches of a process; forks, closing, and the ends of runs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings

import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.driving import event
from support.store.streams import (
    PATIENCE,
    PROGRESS,
    OwnHub,
    Reading,
    Telling,
    is_followed,
    listeners,
    numbers,
    types,
)
from umbel.orchestration.model.envelope import STOP
from umbel.orchestration.model.errors import WorkflowRuntimeError
from umbel.orchestration.streams.reader import StreamHub
from umbel.orchestration.streams.watch import EndedWatch

# -- one connection ----------------------------------------------------------------------------------------------------


def test_many_readers_of_many_runs_share_one_connection(hub: StreamHub, store: Store) -> None:
    runs = [Telling(store) for _ in range(20)]
    readings = [Reading(hub.reader(run.run_id)) for run in runs for _ in range(3)]
    eventually(lambda: all(map(is_followed, runs)), "all are followed")

    assert listeners(store.client) == 1

    for n, run in enumerate(runs):
        run.tell(n)
        run.end()
    assert [numbers(reading.rest()) for reading in readings] == [[n] for n in range(20) for _ in range(3)]


def test_the_last_reader_of_a_run_takes_the_subscription_along(hub: StreamHub, run: Telling) -> None:
    other = Telling(run.store)
    staying, leaving = Reading(hub.reader(run.run_id)), hub.reader(run.run_id).events()
    run.tell(1)
    assert next(leaving).envelope == event(PROGRESS, n=1)
    elsewhere = Reading(hub.reader(other.run_id))
    eventually(lambda: is_followed(run) and is_followed(other), "both are followed")

    leaving.close()
    run.end()
    assert numbers(staying.rest()) == [1]

    eventually(lambda: not is_followed(run), "nobody is subscribed any more")
    assert is_followed(other)
    other.end()
    assert types(elsewhere.rest()) == [STOP]


def test_nothing_is_connected_before_the_first_reader(store: Store, run: Telling) -> None:
    before = store.client.info("stats")["total_connections_received"]
    hub = OwnHub(store)
    hub.reader(run.run_id)
    assert store.client.info("stats")["total_connections_received"] == before
    hub.close()


def test_a_closed_hub_refuses_waiting_and_new_readers(store: Store, run: Telling) -> None:
    hub = OwnHub(store)
    reading = Reading(hub.reader(run.run_id))
    eventually(lambda: is_followed(run), "it waits")

    StreamHub.close(hub)  # its portal stays open

    with pytest.raises(WorkflowRuntimeError, match="hub is closed"):
        reading.next()
    with pytest.raises(WorkflowRuntimeError, match="hub is closed"):
        hub.reader(run.run_id).events()
    hub.close()


def test_a_forked_child_connects_again_and_leaves_the_parents_readers_alone(hub: StreamHub, run: Telling) -> None:
    reading = Reading(hub.reader(run.run_id))
    inherited = hub.reader(run.run_id).events()
    run.tell(1)
    assert reading.number() == 1
    assert next(inherited).envelope == event(PROGRESS, n=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads and fork
        child = os.fork()
    if child == 0:
        try:
            with pytest.raises(WorkflowRuntimeError, match="forked child"):
                next(inherited)
            found = numbers(hub.reader(run.run_id).events(timeout=PATIENCE))
            os._exit(0 if found == [1, 2] else 3)
        except BaseException:
            os._exit(4)
    eventually(lambda: listeners(run.store.client) == 2, "the child has a connection of its own")
    run.tell(2)
    assert reading.number() == 2
    run.end()

    assert os.waitpid(child, 0)[1] == 0
    assert types(reading.rest()) == [STOP]


# -- ends --------------------------------------------------------------------------------------------------------------


def test_waiting_for_an_end_gives_the_run_as_it_ended(hub: StreamHub, run: Telling) -> None:
    threading.Timer(0.05, run.end).start()
    record = hub.wait_ended(run.run_id, PATIENCE)

    assert record.status == "completed"
    assert record.ending == event(STOP, result="done")
    assert hub.wait_ended(run.run_id, 0) == record


def test_waiting_too_short_raises_and_leaves_the_run_alone(hub: StreamHub, run: Telling) -> None:
    with pytest.raises(TimeoutError, match=f"Run '{run.run_id}' has not ended within 0.05 s"):
        hub.wait_ended(run.run_id, 0.05)
    assert run.status == "running"


async def test_a_hundred_waiters_on_a_loop_each_get_their_run(hub: StreamHub, store: Store) -> None:
    runs = await asyncio.to_thread(lambda: [Telling(store) for _ in range(100)])
    waiting = [asyncio.create_task(hub.await_ended(run.run_id, PATIENCE)) for run in runs]
    with pytest.raises(TimeoutError):
        await hub.await_ended(runs[0].run_id, 0.01)
    await asyncio.to_thread(lambda: [run.end() for run in runs])

    records = await asyncio.gather(*waiting)

    assert [end.status for end in records] == ["completed"] * len(runs)
    assert listeners(store.client) == 1


def test_a_watch_hears_every_run_that_ends_in_any_shard(hub: StreamHub, store: Store) -> None:
    ended: list[str] = []
    broken = EndedWatch(hub, lambda run_id: [][0])  # one that fails must not silence the other
    watch = EndedWatch(hub, ended.append)
    shards = {store.keys.in_shard(shard, "ended") for shard in range(store.keys.shards)}
    eventually(lambda: {name.decode() for name in store.client.pubsub_channels()} >= shards, "it hears all shards")

    runs = [Telling(store) for _ in range(40)]
    for run in runs:
        run.end()

    eventually(lambda: len(ended) == 40, "all ends were heard")
    assert ended == [run.run_id for run in runs]
    watch.close()
    broken.close()
    eventually(lambda: not store.client.pubsub_channels(), "nothing is subscribed any more")


# -- many readers, busy loops, readers that leave ----------------------------------------------------------------------


async def test_a_thousand_readers_at_one_position_cost_one_read_of_the_log(hub: StreamHub, run: Telling) -> None:
    def reads() -> int:
        return int(run.store.client.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"])

    async def read() -> list[int]:
        return numbers([found async for found in hub.reader(run.run_id).aevents()])

    await asyncio.to_thread(run.tell, *range(10))
    await asyncio.to_thread(run.end)
    before = await asyncio.to_thread(reads)

    assert await asyncio.gather(*(read() for _ in range(1_000))) == [list(range(10))] * 1_000
    assert await asyncio.to_thread(reads) == before + 1


async def test_a_busy_loop_keeps_little_of_what_it_cannot_read_and_its_readers_go_back_to_the_log(
    hub: StreamHub, run: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.orchestration.streams.relay.INBOX_BYTES", 2_000)

    async def read() -> list[int]:
        return numbers([found async for found in hub.reader(run.run_id).aevents()])

    reader = asyncio.create_task(read())
    await asyncio.to_thread(eventually, lambda: is_followed(run), "it hears live events")
    for n in range(50):  # this blocks the reader's loop
        run.tell(n)
    here = hub.live().here()
    eventually(lambda: here._has_dropped, "what is too much was dropped")
    assert len(here._inbox) < 50
    run.end()

    assert await asyncio.wait_for(reader, PATIENCE) == list(range(50))


def test_blocking_readers_that_are_dropped_without_closing_are_forgotten(hub: StreamHub, run: Telling) -> None:
    streams = [hub.reader(run.run_id).events(timeout=0.05) for _ in range(3)]
    run.tell(1)
    for stream in streams:
        next(stream)
    staying = hub.reader(run.run_id).events(timeout=PATIENCE)
    next(staying)
    waiting = threading.Thread(target=lambda: next(staying))
    waiting.start()
    eventually(lambda: is_followed(run), "somebody is subscribed")

    del streams, stream
    run.tell(2)
    waiting.join(PATIENCE)
    staying.close()

    eventually(lambda: not is_followed(run), "nobody is subscribed any more")


async def test_a_reader_on_a_loop_that_is_dropped_without_closing_is_forgotten(hub: StreamHub, run: Telling) -> None:
    await asyncio.to_thread(run.tell, 1)
    stream = hub.reader(run.run_id).aevents()
    await anext(stream)
    following = asyncio.create_task(anext(stream))
    await asyncio.to_thread(eventually, lambda: is_followed(run), "it hears live events")
    await asyncio.to_thread(run.tell, 2)
    await following

    del stream, following

    await asyncio.to_thread(eventually, lambda: not is_followed(run), "nobody is subscribed any more")


def test_a_blocking_reader_is_interrupted_and_another_continues_from_there(hub: StreamHub, run: Telling) -> None:
    run.tell(1)
    reader = hub.reader(run.run_id)
    got: list[int] = []
    interrupt = threading.Timer(0.0, lambda: (eventually(lambda: is_followed(run), "it waits"), _interrupt()))

    def read() -> None:
        for found in reader.events():
            got.extend(numbers([found]))
            interrupt.start()

    with pytest.raises(KeyboardInterrupt):
        read()
    interrupt.join(PATIENCE)
    eventually(lambda: not is_followed(run), "it has left")
    run.tell(2)
    run.end()

    assert got + numbers(reader.events()) == [1, 2]


def _interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_readers_in_many_threads_each_get_everything(hub: StreamHub, run: Telling) -> None:
    readings = [Reading(hub.reader(run.run_id)) for _ in range(50)]
    for n in range(20):
        run.tell(n)
    run.end()

    assert [numbers(reading.rest()) for reading in readings] == [list(range(20))] * 50


def test_a_portal_that_closes_ends_its_readers(store: Store, run: Telling) -> None:
    hub = OwnHub(store)
    reading = Reading(hub.reader(run.run_id))
    eventually(lambda: is_followed(run), "it waits")

    hub.store.connection.portal.close()

    with pytest.raises(WorkflowRuntimeError, match="hub is closed"):
        reading.next()
