"""The Redis transport, with real Redis servers that are killed and real Celery workers that must survive."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.eventually import eventually
from support.processes.transport import Place, Server, Worker, running_place
from support.programs import transport_app
from umbel.tasks.messages.template import HEADER
from umbel.workers.embedded.configuration import free_port


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with running_place(tmp_path) as place:
        yield place


def break_connections(server: Server, worker: Worker) -> None:
    """Cut all connections of the worker while Redis runs, and wait until it consumes over a new one."""
    connected, last = worker.says("Connected to"), server.consumers()
    for kind in ("pubsub", "normal"):
        server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    eventually(lambda: server.consumers() - last, "the worker consumes again")
    eventually(lambda: worker.says("Connected to") > connected, "it says so")


# Outage


@pytest.mark.parametrize(
    ("pool", "die", "is_empty_after"),
    [("prefork", Server.die_under_subscribers_first, False), ("threads", Server.kill, True)],
    ids=["prefork, data kept", "threads, restarted empty"],
)
def test_a_redis_outage_ends_no_worker_and_repeats_no_task(
    pool: str, die: Callable[[Server], None], is_empty_after: bool, place: Place
) -> None:
    worker = place.worker("--pool", pool, "--concurrency", "3", without=())
    place.start_holding(worker, "ends-during-outage", "ends-after-it")

    die(place.server)
    eventually(lambda: worker.says("Cannot connect to"), "the worker has noticed")
    place.open("ends-during-outage")
    place.await_effects("end ends-during-outage")
    if is_empty_after:
        place.server.forget()
    place.server.start()
    eventually(lambda: worker.says("Connected to") == 2, "the worker reconnected")
    place.open("ends-after-it")
    place.await_effects("end ends-after-it")
    place.send("note", "next")

    place.await_effects("note next")
    place.await_all_acknowledged()
    assert Counter(place.effects()).most_common(1)[0][1] == 1
    assert worker.stop() == 0


def test_a_message_that_waited_in_the_worker_runs_after_an_outage(place: Place) -> None:
    place.options = {"visibility_timeout": 3600}
    worker = place.worker("--concurrency", "1", "--prefetch-multiplier", "2")
    place.start_holding(worker, "first")
    place.send("note", "waited", exchange=transport_app.TOPICS, routing_key="any.work", declare=[transport_app.TOPICS])
    eventually(lambda: place.server.ask("HLEN", "unacked") == 2, "both are fetched")

    place.server.kill()
    eventually(lambda: worker.says("Cannot connect to"), "the worker has noticed")
    place.server.start()
    eventually(lambda: worker.says("Connected to") == 2, "the worker reconnected")
    place.open("first")

    place.await_effects("end first", "note waited")
    place.await_all_acknowledged()
    assert len(place.effects()) == 3


def test_kombus_own_transport_ends_in_an_outage(place: Place) -> None:
    """When this fails, kombu handles it and `Channel._connparams` can be removed."""
    worker = place.worker("--concurrency", "2", kind="stock")
    place.start_holding(worker, "task")

    place.server.die_under_subscribers_first()

    eventually(lambda: worker.says("Unrecoverable error: AttributeError"), "the worker gives up")
    place.open("task")
    assert worker.process.wait(timeout=20) == 1


# Broken connections


@pytest.mark.parametrize(("pool", "kind"), [("prefork", "umbel"), ("threads", "umbel by setting")])
def test_a_broken_connection_repeats_nothing_that_runs(pool: str, kind: transport_app.Kind, place: Place) -> None:
    worker = place.worker("--pool", pool, "--concurrency", "4", kind=kind)
    place.start_holding(worker, "a", "b", "c")

    break_connections(place.server, worker)
    break_connections(place.server, worker)
    for name in "abc":
        place.open(name)
    place.await_effects("end a", "end b", "end c")
    place.send("note", "next")

    place.await_effects("note next")
    place.await_all_acknowledged()
    expected = {f"{what} {name}": 1 for what in ("start", "end") for name in "abc"}
    assert Counter(place.effects()) == {**expected, "note next by w0": 1}
    assert worker.stop() == 0


def test_a_broken_connection_repeats_nothing_that_waits_in_a_thread_pool(place: Place) -> None:
    worker = place.worker("--pool", "threads", "--concurrency", "1", "--prefetch-multiplier", "3")
    place.start_holding(worker, "runs")
    place.send("note", "waits")
    eventually(lambda: place.server.ask("HLEN", "unacked") == 2, "both are fetched")

    break_connections(place.server, worker)
    place.open("runs")

    place.await_effects("end runs", "note waits")
    place.await_all_acknowledged()
    assert len(place.effects()) == 3


def test_kombus_own_transport_repeats_what_runs_when_a_connection_breaks(place: Place) -> None:
    """When this fails, kombu handles it and `QoS.restore_unacked_once` can be removed."""
    worker = place.worker("--pool", "threads", "--concurrency", "6", kind="stock")
    place.start_holding(worker, "a", "b", "c")

    break_connections(place.server, worker)

    eventually(lambda: Counter(place.effects())["start a"] == 2, "a task started twice")


@pytest.mark.parametrize("is_broken_before", [False, True], ids=["healthy", "after a broken connection"])
def test_a_cold_shutdown_puts_everything_un_acked_back(is_broken_before: bool, place: Place) -> None:
    worker = place.worker("--concurrency", "3")
    place.start_holding(worker, "a", "b")
    if is_broken_before:
        break_connections(place.server, worker)

    worker.stop(signal.SIGQUIT)

    assert bool(worker.says("they continue")) == is_broken_before
    assert place.server.ask("LLEN", "work") == 2
    place.await_all_acknowledged()


def test_a_task_whose_process_dies_after_a_broken_connection_is_put_back(place: Place) -> None:
    worker = place.worker("--concurrency", "1", "--prefetch-multiplier", "2")
    place.start_holding(worker, "a")
    break_connections(place.server, worker)

    children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)

    eventually(lambda: Counter(place.effects())["start a"] == 2, "the task started again")
    place.open("a")
    place.await_effects("end a")
    place.await_all_acknowledged()


# Redis refuses commands


def test_a_redis_out_of_memory_ends_no_worker_and_loses_no_message(place: Place) -> None:
    place.options = {"unacked_restore_interval": 0.5}
    worker = place.worker("--concurrency", "1")
    place.start_holding(worker, "first")
    place.send("hold", "second")

    place.server.ask("CONFIG", "SET", "maxmemory", 1)
    place.open("first")
    place.await_effects("start second")
    assert place.server.ask("HLEN", "unacked") == 0
    place.server.ask("CONFIG", "SET", "maxmemory", 0)

    eventually(lambda: place.server.ask("HLEN", "unacked") == 1, "the second message is filed after all")
    place.open("second")
    place.await_effects("end second")
    place.await_all_acknowledged()
    assert len(place.effects()) == 4
    assert worker.is_alive()


def test_a_redis_that_became_a_replica_ends_no_worker_and_gets_its_acks_later(place: Place) -> None:
    worker = place.worker("--concurrency", "1")
    place.start_holding(worker, "task")

    place.server.ask("REPLICAOF", "127.0.0.1", free_port())
    place.open("task")
    eventually(lambda: worker.says("it will be sent again"), "the ack is refused")
    eventually(lambda: worker.says("Connection to broker lost"), "the worker cannot fetch")
    place.server.ask("REPLICAOF", "NO", "ONE")
    place.send("note", "next")

    place.await_effects("note next")
    place.await_all_acknowledged()
    assert len(place.effects()) == 3
    assert worker.is_alive()


# Batched fetches


@pytest.mark.parametrize(
    ("headers", "options", "is_batched"),
    [({HEADER: "Any"}, {}, True), ({HEADER: "Any"}, {"batched_fetch": False}, False), ({}, {}, False)],
    ids=["umbel's own", "switched off", "those of others"],
)
def test_only_messages_of_umbels_own_are_taken_many_at_a_time_unless_that_is_switched_off(
    headers: dict[str, str], options: dict[str, bool], is_batched: bool, place: Place
) -> None:
    names = [str(n) for n in range(60)]
    place.send("note", *names, headers=headers)
    place.options = options
    place.worker("--pool", "threads", "--concurrency", "60", "--prefetch-multiplier", "1")
    place.await_effects(*(f"note {name}" for name in names))

    with place.server.client as client:
        single = client.info("commandstats")["cmdstat_brpop"]["calls"]
    assert single < 40 if is_batched else single >= 60
    assert len(place.effects()) == 60
    place.await_all_acknowledged()


# Alongside kombu's own transport


def test_stock_workers_share_queues_and_restore_what_was_left_behind(place: Place) -> None:
    place.options = {
        "visibility_timeout": 1,
        "unacked_restore_interval": 0.2,
        "unacked_restore_throttle": 1,
        "global_keyprefix": "shop:",
    }
    ours = place.worker("--concurrency", "1")
    place.start_holding(ours, "first")
    ours.process.kill()

    theirs = place.worker("--concurrency", "1", kind="stock")
    eventually(lambda: theirs.says("Accepted hold"), "kombu's transport found the message")
    place.open("first")
    place.await_effects("end first")
    place.start_holding(theirs, "second")
    theirs.process.kill()

    ours = place.worker("--concurrency", "1")
    eventually(lambda: ours.says("Accepted hold"), "umbel's transport found the message")
    place.open("second")
    place.await_effects("end second")
    place.await_all_acknowledged()


def test_stock_and_own_workers_empty_one_queue_together(place: Place) -> None:
    place.worker("--pool", "threads", "--concurrency", "1")
    place.worker("--pool", "threads", "--concurrency", "1", kind="stock")
    place.send("note", *map(str, range(200)), kind="umbel")

    eventually(lambda: len(place.effects()) >= 200, "all ran")
    place.await_all_acknowledged()
    lines = [line.split() for line in place.effects()]
    assert sorted(int(line[1]) for line in lines) == list(range(200))
    assert {line[3] for line in lines} == {"w0", "w1"}
