"""The metrics of a deployment: each one is changed by what it is named after, and by nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import umbel.orchestration.store.scripts as scripts
from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event, failed, plan_of, step, stop
from umbel.orchestration.engine.leases import Counts, Leases
from umbel.orchestration.inspection.metrics import BOUNDS, COUNTERS, Histogram, Metrics, read_metrics
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import Returned
from umbel.orchestration.store.replies import CarryOn, Refusal
from umbel.tasks.owner.histograms import Histograms

ONE = plan_of(step("only", START))
TWO = plan_of(step("first", START, queue="slow"), step("second", "A"))


def counted(store: Store) -> dict[str, int]:
    """Return the counters that are not zero."""
    return {name: number for name, number in store.call(read_metrics, store).counters.items() if number}


def test_a_deployment_without_runs_has_figures_too(store: Store) -> None:
    metrics = store.call(read_metrics, store)

    assert set(metrics.counters) == set(COUNTERS)
    assert counted(store) == {}
    assert (metrics.steps, metrics.waits, metrics.unclaimed, metrics.parked) == ({}, {}, {}, 0)
    assert set(metrics.runs.values()) == {0}
    assert metrics.sweep_lag_seconds == 0.0


def test_a_claim_says_how_long_its_step_had_waited_in_which_queue(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    run.put_back(run.dispatches[0].work_id, "dispatched_at", 40_000)

    first = run.claim("first")
    second = run.commit(first, Returned(event("A")), carry_on=CarryOn("carried")).continued

    assert first.queue == "slow"
    assert 40_000 <= first.claimed_at - first.dispatched_at < 60_000
    assert second is not None
    assert second.queue == "umbel"
    assert second.claimed_at == second.dispatched_at


def test_what_a_process_has_observed_is_counted_once_however_often_it_is_sent(store: Store) -> None:
    observed = Histograms()
    for ms in (0.4, 0.4, 0.4, 40_000):
        observed.took("W", "only", ms)
    observed.waited("slow", 5)
    batch = observed.batch()
    leases = store.over(Leases)

    for _ in range(2):
        assert leases.heartbeat("o1", [], counts=batch).counted

    metrics = store.call(read_metrics, store)
    took, waited = metrics.steps["W", "only"], metrics.waits["slow"]
    assert {BOUNDS[at]: n for at, n in enumerate(took.counts) if n} == {5: 3, 60_000: 1}
    assert took.total_ms == 40_001
    assert waited == Histogram((1, *[0] * len(BOUNDS)), 5)
    assert counted(store) == {}


def test_what_has_not_arrived_is_sent_again_as_it_was() -> None:
    observed = Histograms()
    observed.waited("slow", 5)
    batch = observed.batch()
    observed.waited("slow", 7)

    assert observed.batch() == batch
    observed.arrived()
    following = observed.batch()

    assert following is not None
    assert following.fields == {"wait|slow|2": 1, "wait|slow|sum": 7}
    assert following.batch != batch.batch
    observed.arrived()
    assert not observed
    assert observed.batch() is None


def test_a_process_that_was_declared_dead_still_counts_what_it_did(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    run.claim("only", owner="o1")
    run.leases.fence("o1", run.keys.shard, known_dead=True)
    store.client.zadd(store.keys.in_shard(0, "fenced"), {"o1": 1})

    pulse = store.over(Leases).heartbeat("o1", [], counts=Counts("batch", {"took|W|only|1": 2}))

    assert (pulse.fenced, pulse.counted) == (True, True)
    assert store.call(read_metrics, store).steps["W", "only"].count == 2


def test_names_with_any_characters_are_distinguished(store: Store) -> None:
    field = "took|odd|name|of a workflow|only|3"
    store.client.hset(store.keys.in_shard(0, "counters"), field, 2)
    store.client.hset(store.keys.in_shard(1, "counters"), mapping={field: 5, "took|odd|name|of a workflow|only|sum": 9})

    [(name, histogram)] = store.call(read_metrics, store).steps.items()

    assert name == ("odd|name|of a workflow", "only")
    assert histogram == Histogram((0, 0, 7, *[0] * (len(BOUNDS) - 2)), 9)


def test_a_retry_and_a_final_failure_are_counted_apart(store: Store) -> None:
    run = DrivenRun(store, ONE).start()
    run.commit(run.claim("only"), failed(0.0))
    assert counted(store) == {"retries": 1}

    run.commit(run.claim("only"), failed())

    assert counted(store) == {"retries": 1, "dead_letters": 1}
    assert store.call(read_metrics, store).runs["failed"] == 1


def test_duplicates_are_counted_by_what_came_twice(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    dispatch = run.dispatches[0]
    work = run.claim("first")
    assert run.ask(dispatch) is Refusal.BUSY
    run.flush(work, 1, ("same", event("A")))
    run.flush(work, 2, ("same", event("A")))
    assert counted(store) == {"duplicate_doorbells": 1, "absorbed_sends": 1}

    run.commit(work, Returned(None), batches=2)
    run.commit(work, Returned(None), batches=2)
    assert run.ask(dispatch) is Refusal.STALE

    assert counted(store) == {
        "duplicate_doorbells": 1,
        "absorbed_sends": 1,
        "repeated_commits": 1,
        "stale_doorbells": 1,
    }


def test_a_lost_process_is_one_expiry_and_each_of_its_steps_a_loss(store: Store) -> None:
    run = DrivenRun(store, plan_of(step("one", START), step("two", START))).start()
    first, second = run.claim("one", owner="dead"), run.claim("two", owner="dead")

    for _ in range(2):  # a second sweep finds the rest of the same loss
        held = run.leases.fence("dead", run.keys.shard, known_dead=True)
        assert len(held) == 2
    run.leases.hand_back("dead", held, charge=True)

    assert counted(store) == {"lost_owners": 1, "losses": 2}
    assert run.try_commit(first, stop()) is Refusal.STALE
    assert run.try_commit(second, stop()) is Refusal.STALE
    assert counted(store)["stale_commits"] == 2


def test_what_waits_is_listed_by_queue_with_its_age(store: Store) -> None:
    run = DrivenRun(store, TWO).start()
    run.put_back(run.dispatches[0].work_id, "dispatched_at", 90_000)

    [(queue, waiting)] = store.call(read_metrics, store).unclaimed.items()

    assert (queue, waiting.number) == ("slow", 1)
    assert 90 <= waiting.oldest_seconds < 600


def test_parked_and_overdue_work_is_reported(store: Store) -> None:
    run = DrivenRun(store, ONE).start(timeout_seconds=600)
    run.make_due("timeout")
    run.leases.park(run.run_id, run.dispatches[0].work_id, "W", "only")

    metrics: Metrics = store.call(read_metrics, store)

    assert metrics.parked == 1
    assert metrics.sweep_lag_seconds > 1_000_000  # due since 1970


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_counter_is_one_that_a_script_counts(counter: str) -> None:
    lua = "".join(path.read_text() for path in Path(scripts.__file__).with_name("lua").rglob("*.lua"))

    assert f"'{counter}'" in lua


def test_every_counter_of_the_scripts_is_exported() -> None:
    lua = "".join(path.read_text() for path in Path(scripts.__file__).with_name("lua").rglob("*.lua"))
    counted_there = re.findall(r"HINCRBY', K\.counters, (.*?), [1-9w]", lua)
    names = {name for text in counted_there for name in re.findall(r"'(\w+)'", text)} - {"failed"}

    assert names == set(COUNTERS)
