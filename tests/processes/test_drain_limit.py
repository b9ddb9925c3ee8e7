"""SIGTERM ends a worker in time, whatever its steps do, and also during startup as process 1 of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from support.flows import everyday as flows
from support.processes.driving import LONG_LEASES, Deploy, descendants


@pytest.mark.parametrize("pool", ["asyncio", "prefork", "threads"])
def test_a_step_that_goes_on_for_longer_than_the_drain_is_given_up(deploy: Deploy, pool: str) -> None:
    deployment = deploy(**LONG_LEASES | {"drain_seconds": 1.0})
    worker = deployment.worker("leaving", pool=pool).wait_ready()
    handler = deployment.start(flows.HeldOnLoop)
    deployment.await_effects("begun", run_id=handler.run_id)

    asked_at = time.monotonic()
    worker.terminate()
    worker.process.wait(30)

    assert 0.9 < time.monotonic() - asked_at < 25
    deployment.worker("staying", pool="asyncio").wait_ready()
    deployment.open_gate(handler.run_id)
    assert handler.result(40) is not None


def _may_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="making a PID namespace is not allowed here")
def test_process_1_ends_on_a_signal_that_comes_before_any_command_has_begun() -> None:
    program = "import umbel.workers.cli, time; print('loaded', flush=True); time.sleep(60)"
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()

        [first] = descendants(outer.pid)
        os.kill(first, signal.SIGTERM)

        assert outer.wait(10) == 128 + signal.SIGTERM
