"""A Redis that was set back has lost data that an attempt had received: the attempt's outcome is then refused."""

from __future__ import annotations

import pytest

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event, plan_of, step, stop
from support.store.state_writer import BlockingHash
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.errors import RunClosed
from umbel.orchestration.model.waiters import Surroundings
from umbel.orchestration.state.redis_hash import Change
from umbel.orchestration.store.replies import Applied, Refusal


@pytest.fixture
def run(store: Store) -> DrivenRun:
    return DrivenRun(store, plan_of(step("begin", START))).start()


def test_an_outcome_does_not_stand_without_the_state_that_its_step_wrote(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    state = BlockingHash.of(store, run.run_id, work.state_id, work)
    before = store.client.hget(run.keys["work"], work.work_id)
    assert state.write(Change("set", {"n": b"1"})) == "written"
    assert state.write(Change("set", {"n": b"2"})) == "written"
    store.client.delete(run.keys[f"state:{work.state_id}"])
    store.client.hset(run.keys["work"], work.work_id, before)

    assert run.try_commit(work, stop(1), exchanges=state.writes) is Refusal.MISSING
    assert run.status == "running"


def test_a_step_does_not_write_more_state_if_what_it_wrote_before_is_lost(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    state = BlockingHash.of(store, run.run_id, work.state_id, work)
    before = store.client.hget(run.keys["work"], work.work_id)
    assert state.write(Change("set", {"a": b"1"})) == "written"
    store.client.delete(run.keys[f"state:{work.state_id}"])
    store.client.hset(run.keys["work"], work.work_id, before)

    with pytest.raises(RunClosed, match="Redis was set back"):
        state.write(Change("set", {"b": b"1"}))
    assert not store.client.exists(run.keys[f"state:{work.state_id}"])


def test_a_step_does_not_write_state_if_the_value_of_once_that_it_computed_before_is_lost(
    run: DrivenRun, store: Store
) -> None:
    work = run.claim("begin")
    state = BlockingHash.of(store, run.run_id, work.state_id, work, confirmed=[None])  # by ctx.once

    with pytest.raises(RunClosed, match="Redis was set back"):
        state.write(Change("set", {"b": b"1"}))


def test_an_outcome_stands_with_all_that_its_step_wrote(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    state = BlockingHash.of(store, run.run_id, work.state_id, work)
    for _ in range(2):
        assert state.write(Change("set", {"n": b"1"})) == "written"
    assert state.writes == 2

    assert isinstance(run.try_commit(work, stop(1), exchanges=2), Applied)


def test_an_outcome_does_not_stand_without_the_members_that_its_step_has_gathered(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    before = store.client.hget(run.keys["work"], work.work_id)

    def collect() -> object:
        return store.collect(
            work, buffer="begin|b", call="b|w|0", event=event("A"), expected=[("A", 2, "collect:b:A")], taken="taken:b"
        )

    assert collect() is None
    now = store.client.hget(run.keys["work"], work.work_id)
    store.client.hset(run.keys["work"], work.work_id, before)
    assert run.try_commit(work, stop(1), exchanges=1) is Refusal.MISSING

    store.client.hset(run.keys["work"], work.work_id, now)
    assert collect() is None  # a repeated call adds nothing
    assert isinstance(run.try_commit(work, stop(1), exchanges=1), Applied)


def test_an_event_is_not_sent_early_without_the_state_that_its_step_wrote_before(run: DrivenRun, store: Store) -> None:
    work = run.claim("begin")
    state = BlockingHash.of(store, run.run_id, work.state_id, work)
    before = store.client.hget(run.keys["work"], work.work_id)
    assert state.write(Change("set", {"n": b"1"})) == "written"

    def flush(batch: int) -> Applied | Refusal:
        return store.flush(
            work, run.plan, batch=batch, surroundings=Surroundings(), publishes=[], sends=[], exchanges=state.writes
        )

    assert isinstance(flush(1), Applied)
    store.client.hset(run.keys["work"], work.work_id, before)
    assert flush(1) is Refusal.MISSING
