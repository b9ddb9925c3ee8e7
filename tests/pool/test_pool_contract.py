"""What each pool owes Celery's users, tested on real worker processes: Celery's own pools and the asyncio one.

A test runs for the pools that support its subject. Three workers serve all tests.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from support.eventually import eventually
from support.processes.pool_under_test import ALL, CAN_END_TASKS, PoolUnderTest, end, of, ready, unique
from support.processes.transport import Server, Worker
from support.programs.pool_app import Colour


@pytest.fixture(scope="module")
def places(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[PoolUnderTest, Worker]]]:
    folder = tmp_path_factory.mktemp("pools")
    made = {pool: PoolUnderTest(pool, folder / pool, server, number, {}) for number, pool in enumerate(ALL, 1)}
    workers = {pool: place.start(pool) for pool, place in made.items()}
    try:
        yield {pool: (made[pool], ready(workers[pool])) for pool in ALL}
    finally:
        for worker in workers.values():
            end(worker)
        for place in made.values():
            place.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, places: dict[str, tuple[PoolUnderTest, Worker]]) -> PoolUnderTest:
    return places[request.param][0]


@pytest.fixture
def worker(place: PoolUnderTest, places: dict[str, tuple[PoolUnderTest, Worker]]) -> Worker:
    return places[place.pool][1]


# -- results ---------------------------------------------------------------------------------------------------------


@of(*ALL)
def test_results_and_exceptions_come_back(place: PoolUnderTest) -> None:
    assert place.send("add", 1, 2).get(timeout=20) == 3
    assert place.send("plain", 1, 2).get(timeout=20) == 3
    with pytest.raises(Colour, match="^grün$"):
        place.send("fail", "grün").get(timeout=20)


@of(*ALL)
def test_chains_groups_chords_and_links_work(place: PoolUnderTest) -> None:
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
def test_errbacks_are_called(place: PoolUnderTest) -> None:
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
def test_hooks_and_signals_come_in_celerys_order(place: PoolUnderTest, how: str) -> None:
    sent = place.send("watched", how)

    place.await_notes(f"{sent.id}-0", *HOOKS[how].split("/"))
    if how == "retry":
        place.await_notes(f"{sent.id}-1", *HOOKS["succeed"].replace("_success succeed", "_success retry").split("/"))
    place.await_all_acknowledged()
    if how != "retry":  # Celery sends the next attempt before it stores the state of this one
        state = {"succeed": "SUCCESS", "ignore": "STARTED"}.get(how, "FAILURE")
        eventually(lambda: sent.state == state, "the state is stored")


@of("asyncio")
def test_autoretry_retries_a_coroutine(place: PoolUnderTest) -> None:
    assert place.send("tried").get(timeout=20) == 2


@of("asyncio")
@pytest.mark.parametrize("how", ["itself", "child", "cancelled"])
def test_a_task_that_raises_what_ends_processes_fails_and_the_worker_continues(place: PoolUnderTest, how: str) -> None:
    with pytest.raises(Exception, match=r"^Task 'exit_at_once' raised (SystemExit\(7\)|CancelledError\(\)), which is"):
        place.send("exit_at_once", how).get(timeout=20)

    assert place.send("add", 1, 2).get(timeout=20) == 3
    place.await_all_acknowledged()


@of("asyncio")
def test_a_failure_that_tasks_share_harms_none_that_outlives_it(place: PoolUnderTest) -> None:
    name = unique()
    outliving = place.send("share", name)
    place.await_notes(name, "start")

    with pytest.raises(Colour, match="^shared$"):
        place.send("share", "").get(timeout=20)
    assert place.notes(name) == ["start"]
    place.open(name)

    assert outliving.get(timeout=20) == "outlived"


@of("asyncio")
def test_a_plain_task_that_raises_what_ends_processes_fails_and_the_worker_continues(place: PoolUnderTest) -> None:
    with pytest.raises(Exception, match=r"^Task 'plain_exit' raised SystemExit\(7\), which is"):
        place.send("plain_exit").get(timeout=20)

    assert place.send("plain", 1, 2).get(timeout=20) == 3
    place.await_all_acknowledged()


@of(*ALL)
def test_interleaved_tasks_each_see_their_own_request(place: PoolUnderTest) -> None:
    sent = [place.send("who", 0.05) for _ in range(4 if place.pool == "prefork" else 50)]

    seen = [each.get(timeout=20) for each in sent]

    assert [set(ids) for ids in seen] == [{each.id} for each in sent]
    assert {len(ids) for ids in seen} == {4 if place.pool == "asyncio" else 3}


# -- limits and revoking ---------------------------------------------------------------------------------------------


@of("asyncio")
def test_a_soft_limit_reaches_a_coroutine_and_may_be_outlived(place: PoolUnderTest) -> None:
    name = unique()

    assert place.send("outlive", name, soft_time_limit=0.3).get(timeout=20) == "outlived"

    assert place.notes(name) == ["start", "cancelled"]


@of(*CAN_END_TASKS)
def test_a_soft_limit_reaches_a_plain_function(place: PoolUnderTest) -> None:
    assert place.send("spin", unique(), soft_time_limit=1).get(timeout=20) == "outlived"


@of("asyncio")
def test_a_soft_limit_that_is_not_caught_is_the_failure(place: PoolUnderTest) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        place.send("until_open", unique(), soft_time_limit=0.2).get(timeout=20)


@pytest.mark.parametrize("task", ["until_open", "spin"])
@of(*CAN_END_TASKS)
def test_a_hard_limit_ends_a_task_fails_and_acknowledges_it(place: PoolUnderTest, task: str) -> None:
    name = unique()

    with pytest.raises(TimeLimitExceeded):
        place.send(task, name, time_limit=1).get(timeout=20)

    place.await_all_acknowledged()
    if place.pool == "asyncio":
        place.await_notes(name, "start", "cancelled" if task == "until_open" else "left")


@pytest.mark.parametrize("task", ["until_open", "spin"])
@of(*CAN_END_TASKS)
def test_a_revoked_task_is_ended(place: PoolUnderTest, task: str) -> None:
    name = unique()
    sent = place.send(task, name)
    place.await_notes(name, "start")

    sent.revoke(terminate=True)

    with pytest.raises(TaskRevokedError):
        sent.get(timeout=20)
    place.await_all_acknowledged()
    if place.pool == "asyncio":
        place.await_notes(name, "start", "cancelled" if task == "until_open" else "left")


# -- monitoring ------------------------------------------------------------------------------------------------------


@of(*ALL)
def test_inspect_shows_what_runs_and_the_state_of_the_pool(place: PoolUnderTest) -> None:
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
def test_task_events_report_the_outcome_of_each_task(place: PoolUnderTest) -> None:
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
        # Early events may be lost before the receiver listens: the first task only shows that it does.
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
def test_a_task_that_blocks_the_loop_is_named_once_and_the_worker_still_answers(
    place: PoolUnderTest, worker: Worker
) -> None:
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
def test_a_lost_connection_disturbs_no_running_task(place: PoolUnderTest) -> None:
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
