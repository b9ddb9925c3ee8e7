"""SIGTERM lets a worker finish its running steps; none of them is executed again."""

from __future__ import annotations

import signal

import pytest

from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import LONG_LEASES, Deploy


@pytest.mark.parametrize(
    ("pool", "workflow"), [("prefork", flows.Held), ("threads", flows.HeldOnLoop), ("asyncio", flows.Held)]
)
def test_a_terminated_worker_finishes_its_steps_and_leaves_the_rest_to_others(
    deploy: Deploy, pool: str, workflow: type[flows.Held]
) -> None:
    deployment = deploy(**LONG_LEASES | {"redispatch_seconds": 1.0, "drain_seconds": 60.0})
    leaving = deployment.worker("leaving", pool=pool).wait_ready()
    held = [deployment.start(workflow) for _ in range(2)]
    for handler in held:
        deployment.await_effects("begun", run_id=handler.run_id)
    waiting = [deployment.start(flows.Chain, n=n) for n in range(10)]  # its two slots are taken

    leaving.terminate()
    eventually(lambda: "Warm shutdown" in leaving.log(), "the worker is shutting down")
    staying = deployment.worker("staying", pool="solo").wait_ready()
    assert leaving.process.poll() is None
    for handler in held:
        deployment.open_gate(handler.run_id)

    assert leaving.process.wait(80) == 0
    assert [handler.result(40) for handler in held] == [1, 1]
    assert [handler.result(40) for handler in waiting] == [n * n for n in range(10)]
    assert staying.process.poll() is None
    assert deployment.counter("losses") == 0
    for handler in held:
        for what in ("begun", "ended"):
            assert len(deployment.effects(what, handler.run_id)) == 1
    for handler in waiting:
        for what in ("first", "second", "third"):
            assert len(deployment.effects(what, handler.run_id)) == 1


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_self_delivered_message_is_not_sent_to_the_broker(deploy: Deploy, pool: str) -> None:
    deployment = deploy(**LONG_LEASES)
    deployment.worker("one", pool=pool).wait_ready()
    handler = deployment.start(flows.HeldOnLoop)
    deployment.await_effects("begun", run_id=handler.run_id)

    broker = f"{deployment.settings.key_prefix}:broker"
    filed = deployment.store.client.exists(f"{broker}:unacked", f"{broker}:unacked_index")
    deployment.open_gate(handler.run_id)

    assert filed == 0
    assert handler.result(40) == 1


def test_a_prefork_worker_in_a_cold_shutdown_leaves_its_steps_to_others_and_fails_none(deploy: Deploy) -> None:
    times = {"lease_seconds": 2.0, "heartbeat_seconds": 0.5, "sweep_seconds": 0.2, "redispatch_seconds": 1.0}
    deployment = deploy(**times, drain_seconds=0.5)
    leaving = deployment.worker("leaving", pool="prefork").wait_ready()
    held = deployment.start(flows.Held)
    deployment.await_effects("begun", run_id=held.run_id)

    leaving.process.send_signal(signal.SIGQUIT)  # the soft shutdown, which ends as a cold one
    leaving.process.wait(40)
    deployment.worker("staying", pool="solo").wait_ready()
    deployment.open_gate(held.run_id)

    assert held.result(40) >= 1
    assert len(deployment.effects("ended", held.run_id)) == 1


def test_what_an_asyncio_worker_hands_back_in_a_cold_shutdown_is_dispatched_at_once(deploy: Deploy) -> None:
    deployment = deploy(**LONG_LEASES, drain_seconds=0.5)  # lease expiry and redispatch would be too late
    leaving = deployment.worker("leaving", pool="asyncio").wait_ready()
    held = [deployment.start(flows.HeldOnLoop) for _ in range(2)]
    for handler in held:
        deployment.await_effects("begun", run_id=handler.run_id)
    staying = deployment.worker("staying", pool="asyncio").wait_ready()

    leaving.process.send_signal(signal.SIGQUIT)
    for handler in held:
        deployment.await_effects("begun", 2, handler.run_id)
        deployment.open_gate(handler.run_id)

    assert [handler.result(40) for handler in held] == [1, 1]
    assert deployment.counter("losses") == 0
    assert staying.process.poll() is None
