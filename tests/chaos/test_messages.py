"""The broker loses, duplicates, reorders, delays and damages messages: they are hints, and no run depends on one."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.chaos.concluding import ONE_SEED, conclude, next_progress, nothing_is_lost_or_repeated, start_workers
from support.chaos.deployment import ChaosDeployment, DeployChaos
from support.chaos.flows import KINDS, Asks, Falters
from support.chaos.mixed_load import Load
from support.chaos.recovery_report import RecoveryReport
from support.chaos.special_flows import Held
from support.eventually import eventually
from support.faults.meddler import Meddler, addressed, closed, opened
from support.processes.rabbitmq import find_rabbitmq, rabbitmq
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.transport.quarantine import quarantined

#: Leases that do not expire, and a broker message for each step.
THROUGH_THE_BROKER = {
    "lease_seconds": 6.0,
    "redispatch_seconds": 1.0,
    "redispatch_max_seconds": 4.0,
    "continuation_seconds": 0.0,
}
#: Kinds of runs whose steps begin only once each.
ONCE = tuple(kind for kind in KINDS if kind not in (Falters, Asks))


@contextmanager
def meddling(deployment: ChaosDeployment, seed: int) -> Iterator[Meddler]:
    made = Meddler(deployment.settings, random.Random(seed))
    try:
        yield made
    finally:
        made.close()


def drained(meddler: Meddler) -> None:
    eventually(lambda: not meddler.waiting(), "all messages are taken")


def test_messages_doubled_reversed_and_delivered_again_after_the_end_run_nothing_twice(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed, **THROUGH_THE_BROKER)
    load = Load(deployment, seed)
    load.start(2 * len(ONCE), ONCE)
    with meddling(deployment, seed) as meddler:
        first = meddler.waiting()
        assert len(first) >= 2 * len(ONCE)
        meddler.double(3)
        meddler.reverse()
        start_workers(deployment)
        load.await_all()
        meddler.put(*first)  # as if hours later
        drained(meddler)
        conclude(report, "F16 messages doubled", load, seed=seed)
        assert load.absorbed() >= 2 * len(first)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
def test_messages_lost_doubled_shuffled_and_held_at_random_cost_no_run_anything_but_time(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed, **THROUGH_THE_BROKER)
    start_workers(deployment)
    load = Load(deployment, seed)
    with meddling(deployment, seed) as meddler, meddler.at_work():
        load.start(4 * len(ONCE), ONCE)
        load.await_all()
        assert meddler.dropped + meddler.doubled + meddler.delayed > 10
    conclude(report, "F17 messages shuffled", load, seed=seed)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
def test_messages_held_beyond_leases_and_the_ends_of_their_runs_are_dropped(
    deploy_chaos: DeployChaos, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED, **THROUGH_THE_BROKER, heartbeat_seconds=0.4)
    load = Load(deployment, ONE_SEED)
    load.start(len(ONCE), ONCE)
    with meddling(deployment, ONE_SEED) as meddler:
        held = meddler.hold()
        assert len(held) >= len(ONCE)
        start_workers(deployment)
        load.await_all()  # the sweep has redispatched the held messages
        before = load.executions()
        meddler.release()
        drained(meddler)
        conclude(report, "F18 messages delayed", load, seed=ONE_SEED)
    assert load.executions() == before
    assert load.absorbed() >= len(held)
    nothing_is_lost_or_repeated(deployment)


def forged(message: bytes) -> list[bytes]:
    """Return messages that an attacker, a foreign program or an accident may enqueue, made from one of umbel's."""
    envelope, (arguments, keywords, rest) = opened(message)
    run_id, work_id, dispatch_no = arguments
    headers = envelope["headers"]
    plain = {name: value for name, value in headers.items() if name != "umbel_workflow"}
    return [
        *(addressed(message, *wrong) for wrong in WRONG_ARGUMENTS),
        addressed(message, run_id, work_id, dispatch_no + 1000),
        addressed(message, run_id, "ffffffffffffffffffff", 1),
        addressed(message, "never-started", work_id, 1),
        closed(envelope, [arguments, {"also": 1}, rest]),
        closed(envelope, {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}),
        closed(envelope | {"headers": headers | {"task": "Nobody.knows"}}, [arguments, keywords, rest]),
        closed(envelope | {"headers": headers | {"task": "Nobody.knows"}}, [[None], keywords, rest]),
        closed(envelope | {"headers": plain | {"task": "somebody.elses.task"}}, [[1, 2], {}, rest]),
        b"{not json",
        b"\xff\xfe",
        b'{"body": "x"}',
        json.dumps(envelope | {"body": "no base64!"}).encode(),
        json.dumps(envelope | {"properties": None}).encode(),
        b"[" * 100_000,
        *(json.dumps(envelope | {"headers": headers | wrong}).encode() for wrong in WRONG_HEADERS),
        *(json.dumps(envelope | {"body": base64.b64encode(body).decode()}).encode() for body in WRONG_BODIES),
    ]


#: Celery's consumer fails on each of these outside of any handler of its own, and a pool's timers on the last.
WRONG_HEADERS: list[dict[str, Any]] = [
    {"task": [1]},
    {"task": {"a": 1}},
    {"expires": []},
    {"stamped_headers": 5},
    {"timelimit": ["x", "y"]},
]

WRONG_BODIES = [b"[" * 100_000, b"[" * 5_000 + b"]" * 5_000]

WRONG_ARGUMENTS = [
    (),
    ("only one",),
    (None, None, None),
    ({"run": 1}, ["work"], "1"),
    ("../../etc/passwd", "w", 1),
    ("{07}:run:x", "w", 1),
    ("x" * 1000, "w", 1),
    ("r", "w|x", 1),
    ("r", "w", True),
    ("r", "w", 2**70),
    ("r", "w", -1),
    ("r", "w", 1, "more"),
    ({"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}, "w", 1),
]


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_malformed_forged_and_foreign_messages_are_set_aside_and_cost_nothing(
    deploy_chaos: DeployChaos, report: RecoveryReport, pool: str
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED, **THROUGH_THE_BROKER)
    load = Load(deployment, ONE_SEED)
    load.start(len(ONCE), ONCE)
    with meddling(deployment, ONE_SEED) as meddler:
        sample = meddler.waiting()[0]
        bad = forged(sample)
        meddler.put(*bad)
        meddler.chosen.shuffle(bad)
        meddler.put(*bad)
        meddler.shuffle()
        start_workers(deployment, pool)
        load.await_all()
        drained(meddler)
        (aside,) = quarantined(meddler.client, f"{deployment.settings.key_prefix}:broker:").values()
    conclude(report, "F21 messages forged", load, seed=ONE_SEED)
    nothing_is_lost_or_repeated(deployment)
    refused = deployment.counter("refused_messages")
    assert refused == 2 * (len(WRONG_ARGUMENTS) + 2)
    assert aside.count == refused + 2 * (7 + len(WRONG_HEADERS) + len(WRONG_BODIES))
    assert aside.kept == aside.count


def test_kombus_own_transport_loses_no_worker_either_when_celery_fails_on_a_message(
    deploy_chaos: DeployChaos, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED, broker_transport="stock", **THROUGH_THE_BROKER)
    load = Load(deployment, ONE_SEED)
    load.start(len(ONCE), ONCE)
    with meddling(deployment, ONE_SEED) as meddler:
        envelope = json.loads(meddler.waiting()[0])
        meddler.put(*(json.dumps(envelope | {"headers": envelope["headers"] | wrong}) for wrong in WRONG_HEADERS))
        start_workers(deployment)
        load.await_all()
        drained(meddler)
    conclude(report, "F21 messages forged", load, seed=ONE_SEED)
    nothing_is_lost_or_repeated(deployment)
    assert deployment.counter("refused_messages") == len(WRONG_HEADERS)
    assert all(worker.process.poll() is None for worker in deployment.workers)


@pytest.mark.full_matrix
def test_messages_damaged_at_random_cost_no_run_anything_but_time(
    deploy_chaos: DeployChaos, seed: int, report: RecoveryReport
) -> None:
    deployment = deploy_chaos(seed=seed, **THROUGH_THE_BROKER)
    load = Load(deployment, seed)
    load.start(4 * len(ONCE), ONCE)
    with meddling(deployment, seed) as meddler:
        assert meddler.damage() >= 4 * len(ONCE)
        start_workers(deployment)
        conclude(report, "F21 messages damaged", load, seed=seed)
    nothing_is_lost_or_repeated(deployment)


@pytest.mark.full_matrix
def test_forged_messages_in_rabbitmq_cost_nothing_either(
    deploy_chaos: DeployChaos, supervisor: Supervisor, tmp_path: Path, report: RecoveryReport
) -> None:
    program = find_rabbitmq()
    if program is None:
        pytest.skip("There is no rabbitmq-server on this machine; install it (apt-get install rabbitmq-server).")
    (tmp_path / "rabbitmq").mkdir()
    with rabbitmq(program, tmp_path / "rabbitmq", supervisor) as url:
        deployment = deploy_chaos(seed=ONE_SEED, broker_url=url)
        start_workers(deployment)
        load = Load(deployment, ONE_SEED)
        load.start(len(ONCE), ONCE)
        app, queue = deployment.runtime.app, deployment.settings.queue
        for arguments in WRONG_ARGUMENTS:
            app.send_task(
                "Links.begin", args=arguments, queue=queue, headers={"umbel_workflow": "support.chaos.flows.Links"}
            )
        for headers in WRONG_HEADERS:
            app.send_task("Links.begin", args=("r", "w", 1), queue=queue, headers=headers)
        app.send_task("somebody.elses.task", args=(1,), queue=queue)
        with app.connection_for_write() as connection, connection.channel() as channel:
            for body, kind, encoding in (
                (b"{", "application/json", "utf-8"),
                (b"\x80", "application/x-pickle", "binary"),
            ):
                message = channel.prepare_message(body, content_type=kind, content_encoding=encoding)
                channel.basic_publish(message, exchange="", routing_key=queue)
        conclude(report, "F21 forged in RabbitMQ", load, seed=ONE_SEED)
        eventually(
            lambda: deployment.counter("refused_messages") == len(WRONG_ARGUMENTS) + len(WRONG_HEADERS),
            "all forged dispatches are refused",
        )
        load.start(len(ONCE), ONCE)
        conclude(report, "F21 forged in RabbitMQ", load, seed=ONE_SEED)
        nothing_is_lost_or_repeated(deployment)
        deployment.close()


@pytest.mark.full_matrix
@pytest.mark.parametrize("transport", ["stock", "umbel"])
def test_a_message_whose_acknowledgement_was_lost_and_that_comes_back_a_day_later_runs_nothing(
    deploy_chaos: DeployChaos, report: RecoveryReport, transport: str
) -> None:
    deployment = deploy_chaos(seed=ONE_SEED, broker_transport=transport, **THROUGH_THE_BROKER)
    load = Load(deployment, ONE_SEED)
    load.start(len(ONCE), ONCE)
    with meddling(deployment, ONE_SEED) as meddler:
        kept = meddler.waiting()
        start_workers(deployment)
        load.await_all()
        before = load.executions()
        # As kombu stores messages that were fetched and not acknowledged, a day ago.
        broker = f"{deployment.settings.key_prefix}:broker:"
        for number, message in enumerate(kept):
            filed = json.dumps([json.loads(message), "", deployment.settings.queue])
            meddler.client.hset(f"{broker}unacked", f"tag-{number}", filed)
            meddler.client.zadd(f"{broker}unacked_index", {f"tag-{number}": time.time() - 90_000})
        late = deployment.worker("late", pool="solo").wait_ready()
        eventually(lambda: not meddler.client.exists(f"{broker}unacked"), "all are put back and acknowledged")
        drained(meddler)
        conclude(report, "F33 acknowledgement lost", load, seed=ONE_SEED)
    assert late.process.poll() is None
    assert load.executions() == before
    assert load.absorbed() >= len(kept)


def test_a_lost_message_is_redispatched_soon_after_its_queue_is_empty(
    deploy_chaos: DeployChaos, report: RecoveryReport
) -> None:
    times = {"lease_seconds": 15.0, "heartbeat_seconds": 5.0, "sweep_seconds": 2.0, "redispatch_seconds": 5.0}
    deployment = deploy_chaos(seed=ONE_SEED, **times)
    load = Load(deployment, ONE_SEED)
    for _ in range(3):
        load.start_one(Held, 1)
    with meddling(deployment, ONE_SEED) as meddler:
        assert meddler.drop() == 3
        at = time.monotonic()
        start_workers(deployment, "asyncio")
        load.await_all(30)
        recovery = next_progress(deployment, at)
    conclude(report, "F6 message lost, default times", load, seed=ONE_SEED, recovery_seconds=[recovery])
    assert recovery < 15


@pytest.mark.full_matrix
@pytest.mark.timeout(240)
def test_nothing_is_redispatched_for_a_queue_ten_thousand_long(deploy_chaos: DeployChaos) -> None:
    # The first check of a dispatch comes soon, so that each dispatch is checked many times.
    deployment = deploy_chaos(redispatch_seconds=0.5, sweep_seconds=0.2, continuation_seconds=0.0)
    load = Load(deployment, 1)
    for _ in range(10_000):
        load.start_one(Held, 1)
    with meddling(deployment, 1) as meddler:
        assert meddler.client.llen(meddler.key) == 10_000
        deployment.worker("one", pool="asyncio", concurrency=4).wait_ready()
        eventually(lambda: len(deployment.effects("begin")) > 2_000, "the queue is served")
        assert meddler.client.llen(meddler.key) > 9_000  # each executed message has added the next one
    assert deployment.counter("redispatches") == 0
