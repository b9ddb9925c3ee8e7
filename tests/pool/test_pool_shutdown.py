"""How a worker of each pool shuts down: warm, soft, cold, and killed.

A test runs for the pools that support its subject, with its own workers.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.eventually import eventually
from support.processes.pool_under_test import ALL, CAN_END_TASKS, PoolUnderTest, end, of, ready
from support.processes.transport import Server, Worker


@pytest.fixture
def alone(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> Iterator[tuple[PoolUnderTest, Callable[[str], Worker]]]:
    """Yield a place without a worker, and a function that starts one there."""
    settings = {"worker_soft_shutdown_timeout": 1.0}
    made = PoolUnderTest(request.param, tmp_path, server, 10 + ALL.index(request.param), settings)
    made.ask("FLUSHDB")  # this module has its own server
    workers = []

    def start(name: str) -> Worker:
        workers.append(made.start(name))
        return ready(workers[-1])

    yield made, start
    for each in workers:
        end(each)
    made.close()


@of(*ALL, fixture="alone")
def test_sigterm_lets_what_runs_end(alone: tuple[PoolUnderTest, Callable[[str], Worker]]) -> None:
    place, start = alone
    worker = start("w")
    sent = [place.send("until_open", "one"), place.send("until_open", "two")]
    place.await_notes("one", "start")
    place.await_notes("two", "start")
    # Celery's prefork pool discards the result of a task whose start it has not seen: the task would run again.
    eventually(lambda: place.begun() == 2, "the worker itself knows that they run")

    worker.process.terminate()
    eventually(lambda: worker.says("Warm shutdown"), "it is ending")
    place.open("one")
    place.await_notes("one", "start", "end")
    assert worker.is_alive()
    place.open("two")

    assert worker.process.wait(20) == 0
    assert [each.get(timeout=5) for each in sent] == [None, None]
    assert not place.ask("EXISTS", "unacked", "celery")


@of("asyncio", fixture="alone")
def test_what_waits_in_the_worker_goes_back_into_the_queue(
    alone: tuple[PoolUnderTest, Callable[[str], Worker]],
) -> None:
    place, start = alone
    place.settings |= {"worker_concurrency": 1, "worker_prefetch_multiplier": 2}
    worker = start("w")
    first, second = place.send("until_open", "one"), place.send("until_open", "two")
    place.await_notes("one", "start")
    eventually(lambda: worker.says(f"[{second.id}] received"), "the second one waits there")

    worker.process.terminate()
    eventually(lambda: worker.says("Waiting for running tasks to end: 1."), "it takes nothing on any more")
    place.open("one")

    assert worker.process.wait(20) == 0
    assert first.get(timeout=5) is None
    assert place.notes("two") == []
    assert place.queued() == 1


@of(*CAN_END_TASKS, fixture="alone")
def test_sigquit_lets_short_tasks_end_and_puts_long_ones_back(
    alone: tuple[PoolUnderTest, Callable[[str], Worker]],
) -> None:
    place, start = alone
    worker = start("w")
    short, long = place.send("until_open", "short"), place.send("until_open", "long")
    place.await_notes("short", "start")
    place.await_notes("long", "start")
    eventually(lambda: place.begun() == 2, "the worker itself knows that they run")

    worker.process.send_signal(signal.SIGQUIT)
    eventually(lambda: worker.says("Initiating Soft Shutdown"), "it is ending")
    place.open("short")

    assert worker.process.wait(45) is not None
    assert short.get(timeout=5) is None
    assert long.state == "PENDING"
    assert place.queued() == 1
    if place.pool == "asyncio":
        assert place.notes("long") == ["start", "cancelled"]


@of("asyncio", fixture="alone")
def test_a_second_signal_ends_a_worker_that_waits_for_a_task(
    alone: tuple[PoolUnderTest, Callable[[str], Worker]],
) -> None:
    place, start = alone
    worker = start("w")
    place.send("until_open", "long")
    place.await_notes("long", "start")
    worker.process.terminate()
    eventually(lambda: worker.says("Warm shutdown"), "it is ending")

    worker.process.send_signal(signal.SIGQUIT)

    worker.process.wait(20)
    assert place.notes("long") == ["start", "cancelled"]
    assert place.queued() == 1


@of("asyncio", fixture="alone")
def test_what_a_killed_worker_ran_runs_again(alone: tuple[PoolUnderTest, Callable[[str], Worker]]) -> None:
    place, start = alone
    place.settings["broker_transport_options"] = {"visibility_timeout": 2}
    worker = start("w")
    sent = place.send("until_open", "one")
    place.await_notes("one", "start")
    worker.process.kill()
    worker.process.wait()
    time_of_death = time.monotonic()
    place.open("one")
    eventually(lambda: time.monotonic() > time_of_death + 2, "the message counts as lost")

    start("x")

    assert sent.get(timeout=30) is None
    assert place.notes("one") == ["start", "start", "end"]
