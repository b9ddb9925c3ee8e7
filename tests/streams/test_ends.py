"""Ends of runs that this process has started: they reach every waiter, and Redis is queried only if in doubt."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgpack
import pytest

from support.eventually import eventually
from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches
from support.store.driving import LIMITS, event, stop
from support.store.streams import PATIENCE, KillableRedis, OwnHub, Telling, listeners, store_on
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.history.forks import going_on
from umbel.orchestration.history.forks.edits import Edits
from umbel.orchestration.history.points import Where, point_at
from umbel.orchestration.model.envelope import FAILED, STOP, ending
from umbel.orchestration.model.errors import WorkflowRuntimeError
from umbel.orchestration.store.replies import Applied, RunEnd
from umbel.orchestration.streams import ends
from umbel.orchestration.streams.ends import StartedRun
from umbel.orchestration.streams.reader import StreamHub
from umbel.orchestration.streams.watch import EndedWatch

#: So long that polling finds nothing.
NEVER = 600.0
DONE = RunEnd("completed", event(STOP, result="done"))


@pytest.fixture
def store(redis: KillableRedis) -> Iterator[Store]:
    store = store_on(redis.url, f"t{secrets.token_hex(6)}", shards=1)
    yield store
    store.client.close()


@pytest.fixture
def hub(store: Store) -> Iterator[StreamHub]:
    hub = OwnHub(store, poll_seconds=NEVER)
    yield listening(hub, store)
    hub.close()
    eventually(lambda: listeners(store.client) == 0, "the hub has let go of its connection")


def listening(hub: StreamHub, store: Store) -> StreamHub:
    """Return the hub with its mailbox open, as it is once a run was waited for."""
    run = Telling(store)
    run.end()
    assert hub.wait_ended(run.run_id, PATIENCE) == DONE
    return hub


def begun(hub: StreamHub, store: Store) -> tuple[Telling, StartedRun]:
    """Return a run that was expected before it began."""
    run_id = new_id()
    started = hub.expect(run_id)
    assert started is not None
    return Telling(store, run_id), started


def looks(store: Store) -> int:
    """Return how often Redis was asked for a run."""
    return int(store.client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"])


def is_waited_for(run: Telling, started: StartedRun, waiters: int = 1) -> bool:
    return len(started.mailbox.waiters_of(run.run_id)) == waiters


def in_thread(call: Callable[[], RunEnd]) -> Future[RunEnd]:
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call)
    finally:
        pool.shutdown(wait=False)


# -- waiting -----------------------------------------------------------------------------------------------------------


def waiters_of_all_kinds(hub: StreamHub, run: Telling, started: StartedRun) -> list[Future[RunEnd]]:
    """Start two waiting threads, and two waiting coroutines on each of two loops."""

    async def two() -> RunEnd:
        first, second = await asyncio.gather(*(hub.await_ended(run.run_id, started=started) for _ in range(2)))
        assert first == second
        return first

    waiting = [in_thread(lambda: asyncio.run(two())) for _ in range(2)]
    waiting += [in_thread(lambda: hub.wait_ended(run.run_id, PATIENCE, started)) for _ in range(2)]
    eventually(lambda: is_waited_for(run, started, 6), "all wait")
    return waiting


def test_an_end_reaches_threads_and_loops_and_nobody_asks_redis(hub: StreamHub, store: Store) -> None:
    unheeded, _ = begun(hub, store)
    run, started = begun(hub, store)
    before = looks(store)
    unheeded.end()
    asked_by_ending = looks(store) - before
    waiting = waiters_of_all_kinds(hub, run, started)

    run.end()

    assert [each.result(PATIENCE) for each in waiting] == [DONE] * 4
    assert looks(store) == before + 2 * asked_by_ending
    assert is_waited_for(run, started, 0)


def test_an_end_during_an_interruption_reaches_all_who_wait(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    waiting = waiters_of_all_kinds(hub, run, started)

    store.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    run.end()

    assert [each.result(PATIENCE) for each in waiting] == [DONE] * 4


def test_an_interruption_between_start_and_wait_costs_one_look(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    store.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    run.end()
    eventually(lambda: not started.is_sure, "the interruption was noticed")
    before = looks(store)

    assert hub.wait_ended(run.run_id, PATIENCE, started) == DONE
    assert looks(store) == before + 1


def test_those_who_wait_through_an_interruption_go_on_waiting(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    waiting = waiters_of_all_kinds(hub, run, started)

    store.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    eventually(lambda: not started.is_sure and started.mailbox.is_live, "the mailbox is live again")
    run.end()

    assert [each.result(PATIENCE) for each in waiting] == [DONE] * 4


def test_an_end_before_the_wait_is_given_without_asking_redis(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    run.end()
    eventually(lambda: started.end is not None, "the end has arrived")
    before = looks(store)

    assert hub.wait_ended(run.run_id, 0, started) == DONE
    assert asyncio.run(hub.await_ended(run.run_id, started=started)) == DONE
    assert looks(store) == before


def test_a_run_that_failed_and_was_revived_is_waited_for_again(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    store.finish(run.run_id, "failed", ending(FAILED, step="go"))
    eventually(lambda: not started.is_sure, "the end has arrived")
    revived = store.revive(run.run_id, timeout_seconds=None)
    assert isinstance(revived, Applied)
    run.heard(revived)
    run.work, run.batches = run.claim("go"), 0
    waiting = in_thread(lambda: hub.wait_ended(run.run_id, PATIENCE, started))
    eventually(lambda: is_waited_for(run, started), "it is waited for")

    run.end()

    assert waiting.result(PATIENCE) == DONE


def test_a_second_start_with_the_same_id_takes_nothing_from_the_first(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    hub.expect(run.run_id)
    run.end()

    assert hub.wait_ended(run.run_id, PATIENCE, started) == DONE


def test_a_large_end_is_read_from_redis(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    waiting = waiters_of_all_kinds(hub, run, started)

    run.commit(run.work, stop("x" * 100_000), batches=run.batches)

    for each in waiting:
        end = each.result(PATIENCE)
        assert end.ending is not None
        assert end.ending.value()["result"] == "x" * 100_000


@pytest.mark.parametrize("is_blocking", [False, True])
def test_a_message_that_was_lost_is_made_up_for_by_looking_now_and_then(store: Store, is_blocking: bool) -> None:
    hub = listening(OwnHub(store, poll_seconds=0.05), store)
    run, started = begun(hub, store)
    if is_blocking:
        waiting = in_thread(lambda: hub.wait_ended(run.run_id, None, started))
    else:
        waiting = in_thread(lambda: asyncio.run(hub.await_ended(run.run_id, started=started)))
    eventually(lambda: is_waited_for(run, started), "it is waited for")

    store.client.hset(run.keys["run"], "status", "cancelled")

    assert waiting.result(PATIENCE).status == "cancelled"
    hub.close()


def test_waiting_too_short_raises_and_leaves_nothing_behind(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)

    with pytest.raises(TimeoutError, match=f"Run '{run.run_id}' has not ended within"):
        hub.wait_ended(run.run_id, 0.05, started)
    assert is_waited_for(run, started, 0)


async def test_a_cancelled_waiter_leaves_the_others_waiting(hub: StreamHub, store: Store) -> None:
    run, started = await asyncio.to_thread(begun, hub, store)
    first, second = (asyncio.create_task(hub.await_ended(run.run_id, started=started)) for _ in range(2))
    await asyncio.to_thread(eventually, lambda: is_waited_for(run, started, 2), "both wait")

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert is_waited_for(run, started, 1)
    await asyncio.to_thread(run.end)

    assert await asyncio.wait_for(second, PATIENCE) == DONE
    assert is_waited_for(run, started, 0)


def test_closing_the_hub_ends_all_waiting(store: Store) -> None:
    hub = listening(OwnHub(store, poll_seconds=NEVER), store)
    run, started = begun(hub, store)
    waiting = waiters_of_all_kinds(hub, run, started)

    hub.close()

    for each in waiting:
        with pytest.raises(WorkflowRuntimeError, match="closed"):
            each.result(PATIENCE)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_waits_over_a_connection_of_its_own(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(PATIENCE))
            os._exit(0 if hub.wait_ended(run.run_id, PATIENCE, started) == DONE else 3)
        except BaseException:
            os._exit(4)
    eventually(lambda: listeners(store.client) == 2, "the child has a connection of its own")
    waiting = in_thread(lambda: hub.wait_ended(run.run_id, PATIENCE, started))

    run.end()

    assert os.waitpid(child, 0)[1] == 0
    assert waiting.result(PATIENCE) == DONE


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_nothing_is_kept_of_runs_whose_handler_was_dropped(hub: StreamHub, store: Store) -> None:
    mailbox = begun(hub, store)[1].mailbox
    kept = [hub.expect(new_id()) for _ in range(100)]
    is_kept = [weakref.ref(each) for each in kept if each is not None]
    assert len(is_kept) == 100
    assert mailbox.count_expected() == 100

    kept.clear()

    assert not any(each() for each in is_kept)
    assert mailbox.count_expected() == 0


def test_a_large_end_is_not_kept_for_somebody_who_may_never_come(hub: StreamHub, store: Store) -> None:
    run, started = begun(hub, store)
    run.commit(run.work, stop("x" * 2000), batches=run.batches)
    eventually(lambda: not started.is_sure, "the end has arrived")

    assert started.end is None
    assert hub.wait_ended(run.run_id, PATIENCE, started).status == "completed"


def put_back(store: Store, run: Telling) -> None:
    """Rewind the run to its beginning, as another process does, and claim its work again."""
    sent = SentDispatches()
    store.call(
        going_on.rewind,
        store.over(Engine, sent),
        store.call(point_at, store, run.run_id, Where(seq=1)),
        Edits(),
        LIMITS,
        announcement=event("Rewound"),
        stop_running=False,
        timeout_seconds=None,
    )
    run.dispatches.extend(sent.sent)
    run.work, run.batches = run.claim("go"), 0


def test_an_end_that_another_process_undoes_by_a_rewind_is_not_given_any_more(
    hub: StreamHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "LINGER_SECONDS", NEVER)
    run, started = begun(hub, store)
    run.end()
    eventually(lambda: started.end is not None, "the end has arrived")

    put_back(store, run)

    eventually(lambda: started.end is None, "the rewind has arrived")
    waiting = in_thread(lambda: hub.wait_ended(run.run_id, PATIENCE, started))
    eventually(lambda: is_waited_for(run, started), "somebody waits")
    run.commit(run.work, stop("again"), batches=run.batches)
    assert waiting.result(PATIENCE) == RunEnd("completed", event(STOP, result="again"))


def test_an_end_that_arrives_only_after_the_process_has_rewound_the_run_is_not_given(
    hub: StreamHub, store: Store
) -> None:
    run, started = begun(hub, store)
    former = started.mailbox
    run.end()
    eventually(lambda: started.end is not None, "the end has arrived")

    with hub.rewinding(run.run_id):
        assert started.end is None
        former.heard(run.run_id.encode() + b"\0" + msgpack.packb(["completed", DONE.ending.to_bytes()]))
        assert started.end is None
        put_back(store, run)

    run.commit(run.work, stop("again"), batches=run.batches)
    assert hub.wait_ended(run.run_id, PATIENCE, started) == RunEnd("completed", event(STOP, result="again"))


def test_a_process_in_which_nobody_waits_hears_nothing(store: Store) -> None:
    hub = OwnHub(store, poll_seconds=NEVER)

    assert hub.expect(new_id()) is None
    assert listeners(store.client) == 0
    hub.close()


def test_that_it_is_switched_off_lets_each_wait_ask_redis(redis: KillableRedis) -> None:
    store = store_on(redis.url, f"t{secrets.token_hex(6)}", expected_ends=False)
    hub = listening(OwnHub(store, poll_seconds=NEVER), store)

    assert hub.expect(new_id()) is None
    hub.close()
    store.client.close()


def test_a_mailbox_that_is_not_used_any_more_is_closed_and_opened_again_when_needed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "LINGER_SECONDS", 0.1)
    hub = listening(OwnHub(store, poll_seconds=0.05), store)
    run, started = begun(hub, store)
    eventually(lambda: not store.client.pubsub_channels(), "the mailbox was closed")
    assert not started.is_sure
    assert hub.expect(new_id()) is None

    threading.Timer(0.05, run.end).start()

    assert hub.wait_ended(run.run_id, PATIENCE, started) == DONE
    hub.close()


def test_a_rewind_is_not_an_end_to_a_watch_that_stops_the_steps_of_ended_runs(hub: StreamHub, store: Store) -> None:
    ended: list[str] = []
    watch = EndedWatch(hub, ended.append)
    shards = {store.keys.in_shard(shard, "ended") for shard in range(store.keys.shards)}
    eventually(lambda: {name.decode() for name in store.client.pubsub_channels()} >= shards, "it hears all shards")
    run, last = Telling(store), Telling(store)
    run.end()

    put_back(store, run)
    last.end()

    eventually(lambda: last.run_id in ended, "what was published last was heard")
    assert ended == [run.run_id, last.run_id]
    watch.close()
