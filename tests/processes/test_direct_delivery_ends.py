"""What direct delivery returns: at a shutdown, after a kill, when the broker is lost."""

from __future__ import annotations

import signal

import pytest

from support.eventually import eventually
from support.flows import direct as flows
from support.processes.direct_delivery import (
    WAYS,
    deployed,
    held,
    queued,
    worker_of,
)
from support.processes.driving import Deploy


@WAYS
def test_a_warm_shutdown_waits_for_what_runs_and_gives_the_rest_back(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    leaving = worker_of(deployment)
    running = held(deployment, 2)
    waiting = [deployment.start(flows.Passes) for _ in range(5)]
    leaving.terminate()
    eventually(lambda: "Warm shutdown" in leaving.log(), "the worker is shutting down")
    for handler in running:
        deployment.open_gate(handler.run_id)
    assert leaving.process.wait(40) == 0
    assert queued(deployment) == 5
    worker_of(deployment, "staying")
    assert all(handler.result(40) for handler in running)
    assert [handler.result(40) for handler in waiting] == [way] * 5
    assert [len(deployment.effects("looks", handler.run_id)) for handler in running] == [1, 1]


@WAYS
@pytest.mark.parametrize("ends", [True, False], ids=["in-time", "too-late"])
def test_a_soft_shutdown_lets_steps_end_and_puts_the_others_back(deploy: Deploy, way: str, ends: bool) -> None:
    deployment = deployed(deploy, way, drain_seconds=3.0 if ends else 0.5)
    leaving = worker_of(deployment)
    [handler] = held(deployment, 1)
    leaving.process.send_signal(signal.SIGQUIT)
    eventually(lambda: "Initiating Soft Shutdown" in leaving.log(), "it waits")
    if ends:
        deployment.open_gate(handler.run_id)
        assert handler.result(40)
    leaving.process.wait(40)
    assert (queued(deployment) > 0) is not ends
    worker_of(deployment, "staying")
    deployment.open_gate(handler.run_id)
    assert handler.result(40)
    assert len(deployment.effects("looks", handler.run_id)) == (1 if ends else 2)
    assert len(deployment.effects("looked", handler.run_id)) == 1


@WAYS
def test_a_killed_worker_loses_nothing(deploy: Deploy, way: str) -> None:
    times = {"lease_seconds": 2.0, "heartbeat_seconds": 0.5, "sweep_seconds": 0.2, "redispatch_seconds": 1.0}
    deployment = deployed(deploy, way, **times)
    victim = worker_of(deployment, "victim", concurrency=100)
    running = held(deployment, 3)
    client = deployment.store.client
    assert client.exists(f"{deployment.settings.key_prefix}:broker:unacked") == 0  # the unclaimed index has them
    waiting = [deployment.start(flows.Passes) for _ in range(30)]
    victim.kill_group()
    worker_of(deployment, "heir", concurrency=100)
    for handler in running:
        deployment.open_gate(handler.run_id)
    assert all(handler.result(40) for handler in running)
    assert [handler.result(40) for handler in waiting] == [way] * 30
    assert [len(deployment.effects("looked", handler.run_id)) for handler in running] == [1] * 3


@WAYS
def test_a_lost_broker_connection_neither_repeats_nor_loses_what_runs(deploy: Deploy, way: str) -> None:
    deployment = deployed(deploy, way)
    worker = worker_of(deployment, concurrency=4)
    running = held(deployment, 2)
    deployment.store.client.client_kill_filter(_type="normal", skipme=True)
    eventually(lambda: "Connection to broker lost" in worker.log(), "it has lost its broker")
    eventually(lambda: worker.log().count("Connected to redis") >= 2, "it is connected again")
    assert deployment.start(flows.Passes).result(40) in ("direct", "ordinary")
    for handler in running:
        deployment.open_gate(handler.run_id)
        assert handler.result(40)
    assert [len(deployment.effects("looks", handler.run_id)) for handler in running] == [1, 1]
    eventually(lambda: deployment.start(flows.Passes).result(40) == way, "messages take the same way as before")
    assert queued(deployment) == 0
