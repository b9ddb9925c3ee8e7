"""Two worker processes on one Redis share the work of many runs, and of a single run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from support.flows import everyday as flows
from support.processes.driving import LONG_LEASES, Deploy, Deployment, assert_committed_once

#: The minimum duration of a step, in seconds: the shares then depend on the number of slots, not on machine speed.
STEP_SECONDS = 0.02


@pytest.fixture(scope="module")
def deployment(deploy_for_module: Deploy) -> Deployment:
    made = deploy_for_module(**LONG_LEASES)
    for worker in [made.worker("one"), made.worker("two")]:
        worker.wait_ready()
    return made


def shares(deployment: Deployment, run_ids: Iterable[str], *steps: str) -> dict[str, float]:
    """Return each worker's share of the executions, as a fraction."""
    counted: Counter[str] = Counter()
    for run_id in run_ids:
        found = deployment.executions(run_id)
        assert_committed_once(found)
        counted.update(each.worker.partition("@")[0] for each in found if each.step in steps)
    total = counted.total()
    return {worker: n / total for worker, n in counted.items()}


def test_two_workers_share_the_steps_of_200_runs(deployment: Deployment) -> None:
    handlers = [deployment.start(flows.Chain, n=n, seconds=STEP_SECONDS) for n in range(200)]
    assert [handler.result(50) for handler in handlers] == [n * n for n in range(200)]
    found = shares(deployment, [handler.run_id for handler in handlers], "first", "second", "third")
    print("shares of 200 runs:", found)
    assert len(deployment.effects("third")) == 200
    assert set(found) == {"one", "two"}
    assert all(0.4 <= share <= 0.6 for share in found.values()), found


def test_two_workers_share_one_fan_out_of_1000(deployment: Deployment) -> None:
    handler = deployment.start(flows.Fan, n=1000, seconds=STEP_SECONDS)
    assert handler.result(50) == [1000, sum(n * n for n in range(1000))]
    found = shares(deployment, [handler.run_id], "square")
    print("shares of one fan-out of 1,000:", found)
    assert len(deployment.effects("square", handler.run_id)) == 1000
    assert set(found) == {"one", "two"}
    assert all(0.4 <= share <= 0.6 for share in found.values()), found
