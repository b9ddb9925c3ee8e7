"""Runs of a session execute one at a time, in the order of their starts; decided by scripts, without Celery."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.blocking import SentDispatches, blocking_store, blocking_sweep
from support.store.driving import LIMITS, DrivenRun, event, failed, plan_of, step, stop
from support.store.state_writer import BlockingHash
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.engine.protocol import Engine
from umbel.orchestration.model.commands import WhenBusy
from umbel.orchestration.model.decide import decide_start
from umbel.orchestration.model.envelope import CANCELLED, START, ending
from umbel.orchestration.sessions.look import current_run
from umbel.orchestration.sessions.names import new_run_of
from umbel.orchestration.state.redis_hash import Change, StateHash
from umbel.orchestration.store.replies import Applied, Refusal

PLAN = plan_of(step("begin", START), step("go_on", "A"))


def begin(store: Store, when_busy: WhenBusy = "queue", session: str = "h", **more: Any) -> Any:
    """Start a run in a session; return the run or the refusal."""
    run = DrivenRun(store, PLAN, new_run_of(session))
    commands = decide_start(PLAN, run.run_id, event(START), LIMITS)
    options = {"nonce": new_id(), "timeout_seconds": None} | more
    reply = store.start(run.run_id, PLAN, commands, when_busy=when_busy, **options)
    if not isinstance(reply, Applied):
        return reply
    run.heard(reply)
    return run


def at(store: Store, session: str = "h") -> str:
    return str(store.call(current_run, store, session))


def line(store: Store, session: str = "h") -> list[str]:
    return [each.decode() for each in store.client.lrange(store.keys.of_run(f"{session}.x")[f"line:{session}"], 0, -1)]


def is_queued(run: DrivenRun) -> bool:
    return bool(run.store.run(run.run_id).is_queued)


def cancel(run: DrivenRun) -> Applied:
    ended = run.store.finish(run.run_id, "cancelled", ending(CANCELLED))
    assert isinstance(ended, Applied)
    return ended


def play(run: DrivenRun, ended: Applied) -> None:
    """Give a run the dispatches it got when the end of another run let it begin."""
    assert ended.following is not None
    assert ended.following.run_id == run.run_id
    run.dispatches.extend(ended.following.dispatches)


ENDS = {
    "completes": lambda run: run.commit(run.claim("begin"), stop(1)),
    "fails": lambda run: run.commit(run.claim("begin"), failed()),
    "is cancelled": cancel,
    "times out": lambda run: run.store.finish(run.run_id, "timed_out", ending(CANCELLED)),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_script_that_ends_a_run_begins_the_next_one(store: Store, how: str) -> None:
    first, second, third = (begin(store) for _ in range(3))
    assert [is_queued(run) for run in (first, second, third)] == [False, True, True]
    assert line(store) == [second.run_id, third.run_id]
    assert not second.dispatches

    ended = ENDS[how](first)

    assert ended.following.run_id == second.run_id == at(store)
    assert (is_queued(second), is_queued(third)) == (False, True)
    play(second, ended)
    ended = second.commit(second.claim("begin"), stop("second"))
    play(third, ended)
    third.commit(third.claim("begin"), stop("third"))
    assert [run.result for run in (second, third)] == ["second", "third"]
    assert line(store) == []
    assert store.client.zcard(first.keys["lines"]) == 0


def test_what_a_waiting_run_is_to_execute_is_not_lost_with_the_process_that_ended_the_one_before(store: Store) -> None:
    first, second = begin(store), begin(store)
    cancel(first)  # its process is killed before it sends a message
    sent = SentDispatches()
    store.client.zadd(second.keys["unclaimed"], dict.fromkeys(store.client.zrange(second.keys["unclaimed"], 0, -1), 1))

    blocking_sweep(store, sent, lambda _: 0).sweep(everything=True)

    assert [each.run_id for each in sent.sent] == [second.run_id]


def test_a_waiting_run_may_be_cancelled_and_leaves_the_line(store: Store) -> None:
    first, second, third = (begin(store) for _ in range(3))

    ended = cancel(second)

    assert ended.following is None
    assert line(store) == [third.run_id]
    assert store.run(second.run_id).status == "cancelled"
    assert not is_queued(second)
    assert at(store) == first.run_id
    following = cancel(first).following
    assert following is not None
    assert following.run_id == third.run_id


def test_events_that_are_sent_to_a_waiting_run_wait_with_it(store: Store) -> None:
    first, second = begin(store), begin(store)
    second.send(event("A"))
    assert not second.dispatches

    play(second, cancel(first))

    assert {dispatch.step for dispatch in second.dispatches} == {"begin", "go_on"}


def test_the_time_limit_of_a_waiting_run_begins_with_its_turn(store: Store) -> None:
    first, second = begin(store), begin(store, timeout_seconds=60)
    timer = f"timeout|{second.run_id}"
    assert store.client.zscore(second.keys["timers"], timer) is None

    cancel(first)

    assert store.client.zscore(second.keys["timers"], timer) > 0


def test_a_run_that_would_not_wait_is_refused(store: Store) -> None:
    first = begin(store, "reject")

    assert begin(store, "reject") is Refusal.RUNNING
    cancel(first)
    assert at(store) == first.run_id
    assert begin(store, "reject").run_id == at(store)


def test_as_many_runs_wait_as_may(store: Store) -> None:
    begin(store)
    most = store.settings.session_max_waiting
    for _ in range(most):
        assert isinstance(begin(store), DrivenRun)

    assert begin(store) is Refusal.FULL
    assert len(line(store)) == most


def test_a_run_that_interrupts_begins_before_those_that_wait(store: Store) -> None:
    first, second = begin(store), begin(store)
    work = first.claim("begin")
    BlockingHash.of(store, first.run_id, "h", work).write(Change("set", set={"k": b"1"}))

    third = begin(store, "interrupt")

    assert first.status == "cancelled"
    assert at(store) == third.run_id
    assert line(store) == [second.run_id]
    assert store.over(StateHash, third.run_id, "h").read_all() == {"k": b"1"}
    assert isinstance(first.try_commit(work, stop(1)), Refusal)
    play(second, third.commit(third.claim("begin"), stop(3)))


def test_a_run_that_rolls_back_has_the_state_from_before_the_one_that_went_on(store: Store) -> None:
    first = begin(store)
    BlockingHash.of(store, first.run_id, "h", first.claim("begin")).write(Change("set", set={"k": b"1"}))
    cancel(first)
    second = begin(store)
    writer = BlockingHash.of(store, second.run_id, "h", second.claim("begin"))
    writer.write(Change("set", set={"k": b"2", "l": b"2"}))
    writer.write(Change("set", set={"k": b"3"}))

    third = begin(store, "rollback")

    assert second.status == "cancelled"
    assert at(store) == third.run_id
    assert store.over(StateHash, third.run_id, "h").read_all() == {"k": b"1"}


def test_of_many_concurrent_starts_each_has_its_turn_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = {run.run_id: run for run in pool.map(lambda _: begin(store), range(20))}
    order = [at(store), *line(store)]
    assert sorted(order) == sorted(runs)

    for run_id, next_id in itertools.pairwise(order):
        ended = cancel(runs[run_id])
        assert ended.following is not None
        assert ended.following.run_id == next_id
    assert cancel(runs[order[-1]]).following is None


def test_a_session_of_an_earlier_release_goes_on_with_the_next_look(store: Store) -> None:
    first, second = begin(store), begin(store)
    # An older worker ends the run and ignores the line.
    store.client.hset(first.keys["run"], "status", "completed")
    store.client.zadd(first.keys["lines"], {"h": 1})
    sent = SentDispatches()

    blocking_sweep(store, sent, lambda _: 1).sweep(everything=True)

    assert at(store) == second.run_id
    assert [each.run_id for each in sent.sent] == [second.run_id]


def test_a_session_whose_run_goes_on_is_left_alone_by_looks(store: Store) -> None:
    first, second = begin(store), begin(store)
    store.client.zadd(first.keys["lines"], {"h": 1})

    blocking_sweep(store, SentDispatches(), lambda _: 1).sweep(everything=True)

    assert at(store) == first.run_id
    assert is_queued(second)
    assert store.client.zscore(first.keys["lines"], "h") > 1


def test_an_idle_session_is_kept_as_long_as_it_is_set_to_be_and_its_runs_as_long_as_runs(store: Store) -> None:
    settings = store.settings.model_copy(update={"session_retention_seconds": 100.0, "retention_seconds": 10.0})
    store = blocking_store(settings, store.client)
    run = begin(store)
    BlockingHash.of(store, run.run_id, "h").write(Change("set", set={"k": b"1"}))
    names = ("handler:h", "state:h", "state:h:versions", "session_runs:h")
    assert [store.client.pttl(run.keys[name]) for name in names] == [-1] * 4

    cancel(run)

    assert all(90_000 < store.client.pttl(run.keys[name]) <= 100_000 for name in names)
    assert 0 < store.client.pttl(run.keys["run"]) <= 10_000

    store.over(Engine, SentDispatches()).retry(run.run_id)

    assert [store.client.pttl(run.keys[name]) for name in names] == [-1] * 4


def test_the_end_of_a_run_counts_even_if_the_plan_of_the_next_one_cannot_be_read(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = begin(store), begin(store)
    digest = store.client.hget(second.keys["run"], "plan").decode()
    store.client.delete(second.keys[f"plan:{digest}"])
    dispatcher = SentDispatches()

    assert store.over(Engine, dispatcher).finish(first.run_id, "cancelled", ending(CANCELLED))

    assert store.run(first.run_id).status == "cancelled"
    assert not dispatcher.sent
    unclaimed = store.client.zrange(second.keys["unclaimed"], 0, -1)
    assert any(second.run_id in member.decode() for member in unclaimed), "the sweep finds it"
    assert [record.action for record in caplog.records if hasattr(record, "action")] == ["dispatch_failed"]


def test_a_session_whose_retention_is_over_is_not_listed_any_more(store: Store) -> None:
    over = begin(store)
    cancel(over)
    begin(store, session="kept")
    names = ("handler:h", "state:h", "state:h:versions", "session_runs:h")
    store.client.delete(*(over.keys[name] for name in names))
    for shard in range(store.settings.shards):
        index = store.keys.in_shard(shard, "sessions")
        for name in store.client.zrange(index, 0, -1):
            store.client.zadd(index, {name: 1})

    blocking_sweep(store, SentDispatches(), lambda _: 1).sweep(everything=True)

    indexes = [store.keys.in_shard(shard, "sessions") for shard in range(store.settings.shards)]
    assert [name for index in indexes for name in store.client.zrange(index, 0, -1)] == [b"kept"]


def test_a_run_of_a_limited_workflow_waits_for_its_turn_first_and_then_for_its_admission(store: Store) -> None:
    first, second = begin(store), begin(store, num_concurrent_runs=1)
    assert store.client.zcard(second.keys["awaiting_admission"]) == 0
    dispatcher = SentDispatches()
    engine = store.over(Engine, dispatcher)

    assert engine.finish(first.run_id, "cancelled", ending(CANCELLED))

    assert [each.run_id for each in dispatcher.sent] == [second.run_id]
    assert not store.run(second.run_id).waits_for_admission
