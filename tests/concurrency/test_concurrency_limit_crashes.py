"""No crash costs an admission: wherever a process dies, each run is admitted once and the limit holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

from support.store.checks import checked_store
from support.store.driving import DrivenRun, event, stop
from support.store.limited_runs import (
    Crowd,
    completes,
    fails,
    is_cancelled,
    left_behind,
)
from support.store.mortal import Died, mortal_store
from support.store.set_back import SetBack
from umbel.orchestration.connection.keys import new_id
from umbel.orchestration.connection.redis_client import Client
from umbel.orchestration.connection.settings import Settings
from umbel.orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from umbel.orchestration.store.replies import Dispatch, Refusal


def life(crowd: Crowd) -> Iterator[Callable[[], object]]:
    """Yield all operations on admissions, as separate processes would do them: each may die in between."""

    def started(n: int) -> Callable[[], object]:
        return lambda: crowd.start(f"run{n}")

    def ended(n: int, how: Callable[[Crowd, DrivenRun], None]) -> Callable[[], object]:
        def end() -> None:
            run = crowd.runs[n]
            exists = crowd.store.client.hget(run.keys["run"], "status") == b"running"
            if exists and (how is is_cancelled or not crowd.store.run(run.run_id).waits_for_admission):
                how(crowd, run)

        return end

    def revived(n: int) -> Callable[[], object]:
        def revive() -> None:
            run = crowd.runs[n]
            if crowd.store.client.hget(run.keys["run"], "status") not in (None, b"running"):
                crowd.store.revive(run.run_id, timeout_seconds=None)
                crowd.quota.take(run.run_id)

        return revive

    for n in range(4):
        yield started(n)
    yield ended(0, fails)
    yield ended(2, is_cancelled)
    yield revived(0)
    yield revived(2)
    yield started(4)
    yield crowd.sweep
    yield ended(1, completes)
    yield ended(3, is_cancelled)


def live(client: Client, settings: Settings, dies_at: int, *, applied: bool) -> tuple[Crowd, bool]:
    """Execute the operations of `life`, in one of which a process dies; return whether it did."""
    crowd = Crowd(mortal_store(client, settings, dies_at, applied=applied))
    survivors = Crowd(checked_store(client, settings))
    died = False
    for operation in life(crowd):
        try:
            operation()
        except Died:
            died = True
        assert len(survivors.running()) <= 1
    survivors.runs = crowd.runs
    return survivors, died


#: More exchanges with Redis than `life` needs.
EXCHANGES = 80


@pytest.mark.parametrize("applied", [False, True], ids=["before it is sent", "before the reply"])
def test_wherever_a_process_dies_every_run_is_admitted_and_never_two_at_once(
    client: Client, settings: Settings, applied: bool
) -> None:
    deaths = 0
    for dies_at in range(1, EXCHANGES):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{dies_at}"})
        crowd, died = live(client, own, dies_at, applied=applied)
        deaths += died
        begun: list[str] = []
        for _ in range(12):
            crowd.sweep()
            running = crowd.running()
            assert len(running) <= 1, f"{running} run after a death at {dies_at}"
            for run_id in running:
                begun.append(run_id)
                run = next(run for run in crowd.runs if run.run_id == run_id)
                assert run.content("work"), f"nothing of {run_id} is dispatched after a death at {dies_at}"
                crowd.store.finish(run_id, "cancelled", event("x"))  # and no process passes its admission on
        assert crowd.store.runs(status="running") == [], f"a run waits forever after a death at {dies_at}"
        assert len(begun) == len(set(begun))
        crowd.sweep()
        assert left_behind(crowd.store) == {}, f"after a death at {dies_at}"
    assert 50 < deaths < EXCHANGES - 1  # each exchange was the last one of one process


@pytest.mark.parametrize("by", [3])
def test_wherever_redis_is_set_back_by_a_few_exchanges_all_runs_that_it_knows_are_admitted_at_most_one_too_many_at_once(
    client: Client, settings: Settings, by: int
) -> None:
    for at in count(by + 1):
        own = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{at}"})
        set_back = SetBack(client, own, kept=at - by, at=at)
        crowd = Crowd(set_back.store)
        for operation in life(crowd):
            with suppress(RunNotFound, WorkflowRuntimeError, AssertionError):  # of what Redis no longer knows
                operation()
            assert len(crowd.running()) <= 2, f"set back at exchange {at}"
        survivors = Crowd(checked_store(client, own))
        for _ in range(12):
            survivors.sweep()
            running = survivors.running()
            assert len(running) <= 2, f"set back at exchange {at}"
            for run_id in running:
                survivors.store.finish(run_id, "cancelled", event("x"))  # and no process passes its admission on
        assert survivors.store.runs(status="running") == [], f"a run waits forever after exchange {at}"
        survivors.sweep()
        assert left_behind(survivors.store) == {}, f"set back at exchange {at}"
        if not set_back.is_done:
            assert at > 30
            break


def test_a_commit_of_an_unlimited_run_sends_nothing_more_to_redis(client: Client, settings: Settings) -> None:
    crowd = Crowd(mortal_store(client, settings, 0, applied=True))
    run = crowd.start(limit=None)
    work = run.claim("begin")
    store = crowd.store
    connection = store.wrapped.connection
    run.store = checked_store(client, settings)
    before = connection.exchanges

    crowd.quota.pass_on(run.commit(work, stop()).leaving)

    assert connection.exchanges == before
    assert run.ask(Dispatch(run.run_id, new_id(), 1, "begin", "umbel", 0)) is Refusal.CLOSED
