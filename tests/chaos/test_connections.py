"""Connections are reset, go silent or lose replies under load: this costs time and nothing else."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.chaos.concluding import ONE_SEED, conclude, next_progress, nothing_is_lost_or_repeated, start_workers
from support.chaos.deployment import DeployChaos
from support.chaos.flows import KINDS, Asks, Falters, Tells
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held
from support.eventually import eventually
from support.faults.proxy import Proxy, command
from support.faults.redis_under_test import RedisUnderTest

#: A broken connection is not a dead process: no lease may expire in these tests.
PATIENT = {
    "lease_seconds": 6.0,
    "heartbeat_seconds": 0.5,
    "sweep_seconds": 0.2,
    "redispatch_seconds": 1.0,
    "redispatch_max_seconds": 4.0,
}
#: Kinds of runs whose steps begin only once each.
ONCE = tuple(kind for kind in KINDS if kind not in (Falters, Asks))


@pytest.fixture
def proxy(redis_server: RedisUnderTest) -> Iterator[Proxy]:
    with Proxy(redis_server.url) as made:
        yield made


@contextmanager
def again_and_again(act: Callable[[], int], seconds: float) -> Iterator[list[int]]:
    """Call `act` every `seconds` seconds inside the block; yields the list of its results."""
    stop = threading.Event()
    done: list[int] = []

    def repeat() -> None:
        while not stop.wait(seconds):
            done.append(act())

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_a_storm_of_connection_resets_repeats_no_step(
    deploy_chaos: DeployChaos, proxy: Proxy, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(proxy.url, seed=seed, **PATIENT)
    start_workers(deployment)
    load = Load(deployment, seed)
    chosen = random.Random(seed)
    with again_and_again(lambda: proxy.reset(0.7, chosen), 0.2) as resets:
        for storms in (3, 6, 9):
            load.start(len(ONCE), ONCE, seconds=0.1)
            eventually(lambda storms=storms: len(resets) >= storms, "connections are reset")
    assert sum(resets) > 20
    conclude(report, "F13 connections reset", load, seed=seed)
    nothing_is_lost_or_repeated(deployment)


def test_scripts_whose_answers_are_lost_at_random_repeat_no_step(
    deploy_chaos: DeployChaos, proxy: Proxy, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(proxy.url, seed=seed, **PATIENT)
    start_workers(deployment)
    losing = proxy.lose_replies(lambda sent: sent[0] == b"FCALL", most=1_000, chance=0.1, chosen=random.Random(seed))
    load = Load(deployment, seed)
    load.start(2 * len(ONCE), ONCE)
    load.await_all()
    proxy.heal()
    assert losing.lost > 10
    conclude(report, "F14 answers of scripts lost", load, seed=seed)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
def test_messages_pushed_twice_because_an_answer_was_lost_run_nothing_twice(
    deploy_chaos: DeployChaos, proxy: Proxy, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(proxy.url, seed=seed, **PATIENT, continuation_seconds=0.0)
    start_workers(deployment)
    losing = proxy.lose_replies(command("LPUSH"), most=1_000, chance=0.3, chosen=random.Random(seed))
    load = Load(deployment, seed)
    load.start(3 * len(ONCE), ONCE)
    load.await_all()
    proxy.heal()
    assert losing.lost > 5
    conclude(report, "F14 answers of pushes lost", load, seed=seed)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
@pytest.mark.parametrize("fault", ["silent", "half closed"])
def test_dead_connections_are_noticed_and_replaced_by_workers_clients_and_readers(
    deploy_chaos: DeployChaos, proxy: Proxy, report: RecoveryReport, fault: str
) -> None:
    deployment = deploy_chaos(proxy.url, seed=ONE_SEED)
    start_workers(deployment)
    load = Load(deployment, ONE_SEED)
    streaming = load.start_one(Tells, 20, seconds=2.0)
    events = iter(load.handler(streaming).events())
    first = next(events)
    load.start(10, seconds=0.1)
    at = time.monotonic()
    assert (proxy.blackhole if fault == "silent" else proxy.half_close)() > 5
    begun = [load.start_one(Held, 1) for _ in range(3)]  # started by a client whose connections are dead
    load.await_all()
    numbers = [first.n, *(event.n for event in events if hasattr(event, "n"))]  # type: ignore[attr-defined]
    assert set(range(20)) <= set(numbers)
    recovery = min(line["at"] for run in begun for line in deployment.effects("begin", run)) - at
    conclude(
        report,
        f"F15 connections {fault}",
        load,
        seed=ONE_SEED,
        recovery_seconds=[next_progress(deployment, at + 0.5), recovery],
    )
    assert recovery < 25


@pytest.mark.full_matrix
@pytest.mark.timeout(150)
def test_a_network_that_swallows_everything_for_half_a_minute_costs_no_run_anything_but_time(
    deploy_chaos: DeployChaos, proxy: Proxy, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(proxy.url, seed=ONE_SEED)
    start_workers(deployment)
    load = Load(deployment, ONE_SEED)
    load.start(20, seconds=0.1)
    proxy.blackhole(new=True)
    over = threading.Event()
    assert not over.wait(30)
    proxy.heal()
    proxy.reset()  # the peers that had swallowed traffic no longer know these connections
    at = time.monotonic()
    load.start(5)
    load.await_all(60)
    conclude(report, "F15 network away for 30 s", load, seed=ONE_SEED, recovery_seconds=[next_progress(deployment, at)])


@pytest.mark.full_matrix
def test_a_slow_network_only_makes_runs_slow(deploy_chaos: DeployChaos, proxy: Proxy, report: RecoveryReport) -> None:
    deployment = deploy_chaos(proxy.url, seed=ONE_SEED)
    start_workers(deployment)
    proxy.delay(0.02)
    load = Load(deployment, ONE_SEED)
    load.start(len(ONCE), ONCE)
    load.await_all()
    proxy.delay(0.0)
    conclude(report, "F15 network slow", load, seed=ONE_SEED)
    nothing_is_lost_or_repeated(deployment)
