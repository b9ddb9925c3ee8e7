"""What each pool owes Celery's users, asked of real worker processes: Celery's own pools, and the asyncio one.

A test runs for the pools that can do it. Three workers serve all tests but those that end one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from support import TESTS
from support.eventually import eventually
from support.processes.transport import Server, Worker
from support.programs import pool_app
from support.programs.pool_app import Colour

ALL = ("prefork", "threads", "asyncio")
CAN_END_TASKS = ("prefork", "asyncio")


@dataclass
class Place:
    """One pool's broker, files and worker."""

    pool: str
    folder: Path
    server: Server
    database: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        url = self.server.url.rpartition("/")[0]
        self.about = {"pool": self.pool, "broker": f"{url}/{self.database}", "results": f"{url}/{self.database}"}
        self.app = pool_app.build(**self.about, settings=self.settings)

    def start(self, name: str) -> Worker:
        log = self.folder / f"{name}.log"
        environment = {
            **os.environ,
            "POOL_APP": json.dumps({**self.about, "settings": self.settings}),
            "POOL_APP_FOLDER": str(self.folder),
        }
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "support.programs.pool_app",
            "worker",
            "-l",
            "info",
            "-n",
            f"{name}@test",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-E", "--without-mingle", "--without-gossip"],
                cwd=TESTS,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Worker(process, log)

    def send(self, task: str, *args: Any, **options: Any) -> celery.result.AsyncResult:
        return self.app.tasks[task].apply_async(args, **options)

    def signature(self, task: str, *args: Any) -> Any:
        return self.app.tasks[task].s(*args)

    def open(self, name: str) -> None:
        (self.folder / f"open-{name}").touch()

    def notes(self, name: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_text().splitlines()
        return []

    def await_notes(self, name: str, *lines: str) -> None:
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.notes(name) == list(lines), "the notes are there", 10)
        assert self.notes(name) == list(lines)

    def consumers(self) -> set[int]:
        """Ids of the connections that wait for messages."""
        with self.server.client as client:
            found = client.client_list()
        return {int(one["id"]) for one in found if one["cmd"] == "brpop" and one["db"] == str(self.database)}

    def queued(self) -> int:
        return int(self.ask("LLEN", "celery"))

    def ask(self, *command: Any) -> Any:
        with self.server.client as client:
            client.select(self.database)
            return client.execute_command(*command)

    def await_all_acknowledged(self) -> None:
        eventually(lambda: not self.ask("EXISTS", "unacked"), "nothing is un-acked")

    def close(self) -> None:
        backend = self.app.backend
        backend.result_consumer.stop()
        backend.result_consumer._pubsub = None  # results that are collected later would still unsubscribe
        backend.client.connection_pool.disconnect()
        self.app.close()


def ready(worker: Worker) -> Worker:
    def is_ready() -> bool:
        assert worker.is_alive(), worker.log.read_text()
        return worker.says(" ready.") > 0

    eventually(is_ready, "the worker is ready")
    return worker


def end(worker: Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("redis"))
    started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def places(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Place, Worker]]]:
    folder = tmp_path_factory.mktemp("pools")
    made = {pool: Place(pool, folder / pool, server, number, {}) for number, pool in enumerate(ALL, 1)}
    workers = {pool: place.start(pool) for pool, place in made.items()}
    try:
        yield {pool: (made[pool], ready(workers[pool])) for pool in ALL}
    finally:
        for worker in workers.values():
            end(worker)
        for place in made.values():
            place.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, places: dict[str, tuple[Place, Worker]]) -> Place:
    return places[request.param][0]


@pytest.fixture
def worker(place: Place, places: dict[str, tuple[Place, Worker]]) -> Worker:
    return places[place.pool][1]


@pytest.fixture
def alone(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> Iterator[tuple[Place, Callable[[str], Worker]]]:
    """A place without a worker, and how to start one there."""
    settings = {"worker_soft_shutdown_timeout": 1.0}
    made = Place(request.param, tmp_path, server, 10 + ALL.index(request.param), settings)
    made.ask("FLUSHDB")  # of this module's own server
    workers = []

    def start(name: str) -> Worker:
        workers.append(made.start(name))
        return ready(workers[-1])

    yield made, start
    for each in workers:
        end(each)
    made.close()


def of(*pools: str, fixture: str = "place") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(fixture, pools, indirect=True)


def unique() -> str:
    return secrets.token_hex(4)


# -- results ---------------------------------------------------------------------------------------------------------


@of(*ALL)
def test_results_and_exceptions_come_back(place: Place) -> None:
    assert place.send("add", 1, 2).get(timeout=20) == 3
    assert place.send("plain", 1, 2).get(timeout=20) == 3
    with pytest.raises(Colour, match="^grün$"):
        place.send("fail", "grün").get(timeout=20)


@of(*ALL)
def test_chains_groups_chords_and_links_work(place: Place) -> None:
    add, total = place.signature("add", 1), place.signature("total")
    chained = chain(place.signature("add", 1, 1), add, place.signature("plain", 5)).apply_async()
    grouped = group(place.signature("add", n, n) for n in range(10)).apply_async()
    joined = chord([place.signature("add", n, 1) for n in range(10)])(total)
    linked = place.send("add", 2, 3, link=[place.signature("add", 10), place.signature("add", 20)])

    assert chained.get(timeout=20) == 8
    assert grouped.get(timeout=20) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert joined.get(timeout=20) == 55
    assert linked.get(timeout=20) == 5
    assert sorted(child.get(timeout=20) for child in linked.children[0].children) == [15, 25]


@of(*ALL)
def test_errbacks_are_called(place: Place) -> None:
    name = unique()
    place.open(name)

    failed = place.send("fail", "x", link_error=place.app.tasks["until_open"].si(name))

    with pytest.raises(Colour):
        failed.get(timeout=20)
    place.await_notes(name, "start", "end")


HOOKS = {
    "succeed": "task_prerun/before_start/run/on_success succeed/task_success succeed/after_return SUCCESS/"
    "task_postrun SUCCESS",
    "fail": "task_prerun/before_start/run/on_failure Colour/task_failure/after_return FAILURE/task_postrun FAILURE",
    "ignore": "task_prerun/before_start/run/task_postrun IGNORED",
    "reject": "task_prerun/before_start/run/task_postrun REJECTED/task_failure",
    "retry": "task_prerun/before_start/run/on_retry Colour/task_retry/task_postrun RETRY",
}


@pytest.mark.parametrize("how", HOOKS)
@of(*ALL)
def test_hooks_and_signals_come_in_celerys_order(place: Place, how: str) -> None:
    sent = place.send("watched", how)

    place.await_notes(f"{sent.id}-0", *HOOKS[how].split("/"))
    if how == "retry":
        place.await_notes(f"{sent.id}-1", *HOOKS["succeed"].replace("_success succeed", "_success retry").split("/"))
    place.await_all_acknowledged()
    if how != "retry":  # Celery sends the next attempt before it stores that of this one
        state = {"succeed": "SUCCESS", "ignore": "STARTED"}.get(how, "FAILURE")
        eventually(lambda: sent.state == state, "the state is stored")


@of("asyncio")
def test_autoretry_retries_a_coroutine(place: Place) -> None:
    assert place.send("tried").get(timeout=20) == 2


@of("asyncio")
@pytest.mark.parametrize("how", ["itself", "child", "cancelled"])
def test_a_task_that_raises_what_ends_processes_fails_and_the_worker_goes_on(place: Place, how: str) -> None:
    with pytest.raises(Exception, match=r"^Task 'exit_at_once' raised (SystemExit\(7\)|CancelledError\(\)), which is"):
        place.send("exit_at_once", how).get(timeout=20)

    assert place.send("add", 1, 2).get(timeout=20) == 3
    place.await_all_acknowledged()


@of("asyncio")
def test_a_failure_that_tasks_share_harms_none_that_outlives_it(place: Place) -> None:
    name = unique()
    outliving = place.send("share", name)
    place.await_notes(name, "start")

    with pytest.raises(Colour, match="^shared$"):
        place.send("share", "").get(timeout=20)
    assert place.notes(name) == ["start"]
    place.open(name)

    assert outliving.get(timeout=20) == "outlived"


@of("asyncio")
def test_a_plain_task_that_raises_what_ends_processes_fails_and_the_worker_goes_on(place: Place) -> None:
    with pytest.raises(Exception, match=r"^Task 'plain_exit' raised SystemExit\(7\), which is"):
        place.send("plain_exit").get(timeout=20)

    assert place.send("plain", 1, 2).get(timeout=20) == 3
    place.await_all_acknowledged()


@of(*ALL)
def test_interleaved_tasks_each_see_their_own_request(place: Place) -> None:
    sent = [place.send("who", 0.05) for _ in range(4 if place.pool == "prefork" else 50)]

    seen = [each.get(timeout=20) for each in sent]

    assert [set(ids) for ids in seen] == [{each.id} for each in sent]
    assert {len(ids) for ids in seen} == {4 if place.pool == "asyncio" else 3}


# -- limits and revoking ---------------------------------------------------------------------------------------------


@of("asyncio")
def test_a_soft_limit_reaches_a_coroutine_and_may_be_outlived(place: Place) -> None:
    name = unique()

    assert place.send("outlive", name, soft_time_limit=0.3).get(timeout=20) == "outlived"

    assert place.notes(name) == ["start", "cancelled"]


@of(*CAN_END_TASKS)
def test_a_soft_limit_reaches_a_plain_function(place: Place) -> None:
    assert place.send("spin", unique(), soft_time_limit=1).get(timeout=20) == "outlived"


@of("asyncio")
def test_a_soft_limit_that_is_not_caught_is_the_failure(place: Place) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        place.send("until_open", unique(), soft_time_limit=0.2).get(timeout=20)


@pytest.mark.parametrize("task", ["until_open", "spin"])
@of(*CAN_END_TASKS)
def test_a_hard_limit_ends_a_task_fails_and_acknowledges_it(place: Place, task: str) -> None:
    name = unique()

    with pytest.raises(TimeLimitExceeded):
        place.send(task, name, time_limit=1).get(timeout=20)

    place.await_all_acknowledged()
    if place.pool == "asyncio":
        place.await_notes(name, "start", "cancelled" if task == "until_open" else "left")


@pytest.mark.parametrize("task", ["until_open", "spin"])
@of(*CAN_END_TASKS)
def test_a_revoked_task_is_ended(place: Place, task: str) -> None:
    name = unique()
    sent = place.send(task, name)
    place.await_notes(name, "start")

    sent.revoke(terminate=True)

    with pytest.raises(TaskRevokedError):
        sent.get(timeout=20)
    place.await_all_acknowledged()
    if place.pool == "asyncio":
        place.await_notes(name, "start", "cancelled" if task == "until_open" else "left")


# -- watching --------------------------------------------------------------------------------------------------------


@of(*ALL)
def test_inspect_shows_what_runs_and_the_state_of_the_pool(place: Place) -> None:
    names = [unique() for _ in range(2)]
    sent = [place.send("until_open", name) for name in names]
    for name in names:
        place.await_notes(name, "start")
    inspect = place.app.control.inspect([f"{place.pool}@test"], timeout=5)

    def active() -> set[str]:
        return {each["id"] for each in (inspect.active() or {}).get(f"{place.pool}@test", ())}

    eventually(lambda: active() == {each.id for each in sent}, "both are listed as active")
    stats = inspect.stats()[f"{place.pool}@test"]
    assert stats["pool"]["implementation"].endswith("Pool")
    assert stats["pool"]["max-concurrency"] == {"prefork": 2, "threads": 20, "asyncio": 1000}[place.pool]
    assert stats["prefetch_count"] == stats["pool"]["max-concurrency"]
    if place.pool == "asyncio":
        assert stats["pool"]["active"] == 2
        assert stats["pool"]["processes"] == [stats["pid"]]
    for name in names:
        place.open(name)
    assert [each.get(timeout=20) for each in sent] == [None, None]
    eventually(lambda: active() == set(), "none is listed as active")


@of(*ALL)
def test_task_events_tell_what_became_of_each_task(place: Place) -> None:
    heard: dict[str, list[str]] = {}
    ready_to_hear = threading.Event()
    with place.app.connection_for_read() as connection:
        receiver = place.app.events.Receiver(
            connection, handlers={"*": lambda event: heard.setdefault(event.get("uuid", ""), []).append(event["type"])}
        )

        def listen() -> None:
            with contextlib.suppress(TimeoutError, OSError):
                for _ in receiver.consume(limit=None, timeout=20, wakeup=False):
                    ready_to_hear.set()
                    if done.is_set():
                        return

        done = threading.Event()
        listener = threading.Thread(target=listen)
        listener.start()
        # Not each event may come before the receiver listens: the first task only shows that it does.
        eventually(lambda: place.send("add", 0, 0).get(timeout=20) == 0 and heard, "events are heard")
        good, bad = place.send("add", 1, 2), place.send("fail", "x")

        def ends_with(uuid: str, kind: str) -> Callable[[], bool]:
            return lambda: kind in heard.get(uuid, ())

        eventually(ends_with(good.id, "task-succeeded"), "the success is reported")
        eventually(ends_with(bad.id, "task-failed"), "the failure is reported")
        done.set()
        place.send("add", 0, 0).get(timeout=20)
        listener.join(20)
        assert not listener.is_alive()
    assert sorted(heard[good.id]) == ["task-received", "task-started", "task-succeeded"]
    assert sorted(heard[bad.id]) == ["task-failed", "task-received", "task-started"]


@of("asyncio")
def test_a_task_that_blocks_the_loop_is_named_once_and_the_worker_still_answers(place: Place, worker: Worker) -> None:
    name = unique()
    sent = place.send("block", name)
    place.await_notes(name, "start")

    eventually(lambda: worker.says(f"block[{sent.id}] has blocked the asyncio loop"), "the blocking is logged")
    assert place.app.control.inspect(["asyncio@test"], timeout=5).ping() == {"asyncio@test": {"ok": "pong"}}
    assert place.notes(name) == ["start"]

    place.open(name)
    sent.get(timeout=20)
    eventually(lambda: "in block\n" in worker.log.read_text(), "the log shows where")
    assert worker.says(f"block[{sent.id}] has blocked the asyncio loop") == 1


@of("asyncio")
def test_a_lost_connection_disturbs_no_running_task(place: Place) -> None:
    name = unique()
    sent = place.send("until_open", name)
    place.await_notes(name, "start")
    lost = place.consumers()

    for connection in lost:
        place.ask("CLIENT", "KILL", "ID", connection)

    eventually(lambda: place.consumers() - lost, "the worker consumes again")
    assert place.send("add", 1, 2).get(timeout=20) == 3
    assert place.send("plain", 1, 2).get(timeout=20) == 3
    place.open(name)
    sent.get(timeout=20)
    place.await_all_acknowledged()
    assert place.notes(name) == ["start", "end"]


# -- ending ----------------------------------------------------------------------------------------------------------


@of(*ALL, fixture="alone")
def test_sigterm_lets_what_runs_end(alone: tuple[Place, Callable[[str], Worker]]) -> None:
    place, start = alone
    worker = start("w")
    sent = [place.send("until_open", "one"), place.send("until_open", "two")]
    place.await_notes("one", "start")
    place.await_notes("two", "start")

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
def test_what_waits_for_its_turn_goes_back_into_the_queue(alone: tuple[Place, Callable[[str], Worker]]) -> None:
    place, start = alone
    place.settings |= {"worker_concurrency": 1, "worker_prefetch_multiplier": 2}
    worker = start("w")
    first, second = place.send("until_open", "one"), place.send("until_open", "two")
    place.await_notes("one", "start")
    eventually(lambda: worker.says(f"[{second.id}] received"), "the second one waits there")

    worker.process.terminate()
    eventually(lambda: worker.says("Waiting for 1 running task"), "it takes nothing on any more")
    place.open("one")

    assert worker.process.wait(20) == 0
    assert first.get(timeout=5) is None
    assert place.notes("two") == []
    assert place.queued() == 1


@of(*CAN_END_TASKS, fixture="alone")
def test_sigquit_lets_short_tasks_end_and_puts_long_ones_back(alone: tuple[Place, Callable[[str], Worker]]) -> None:
    place, start = alone
    worker = start("w")
    short, long = place.send("until_open", "short"), place.send("until_open", "long")
    place.await_notes("short", "start")
    place.await_notes("long", "start")

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
def test_a_second_signal_ends_a_worker_that_waits_for_a_task(alone: tuple[Place, Callable[[str], Worker]]) -> None:
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
def test_what_a_killed_worker_ran_runs_again(alone: tuple[Place, Callable[[str], Worker]]) -> None:
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
