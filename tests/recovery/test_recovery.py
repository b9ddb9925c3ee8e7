"""Recovery of work whose process died: quick for innocent work, limited for the work that caused it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from support.eventually import eventually
from support.flows import recovery as flows
from support.processes.driving import Deploy, Deployment, WorkerUnderTest
from umbel import WorkerLost
from umbel.orchestration.model.suspicion import CROWDS

FLOWS = "support.flows.recovery"


class Supervisor:
    """Starts another worker when one has died, as a process supervisor does."""

    def __init__(self, deployment: Deployment, **options: Any) -> None:
        self.deployment, self.options = deployment, options
        self.workers = [self._another(0)]
        self.workers[0].wait_ready()

    def _another(self, n: int) -> WorkerUnderTest:
        return self.deployment.worker(f"life{n}", FLOWS, **self.options)

    def look(self) -> None:
        if self.workers[-1].process.poll() is not None:
            self.workers.append(self._another(len(self.workers)))

    @property
    def deaths(self) -> int:
        return sum(worker.process.poll() is not None for worker in self.workers)


def most_at_once(effects: Iterable[dict[str, Any]]) -> int:
    """Return the maximum number of finished executions that ran at the same time."""
    ended = {each["run"]: each["attempt"] for each in effects if each["what"] == "ended"}
    mine = [each for each in effects if ended.get(each["run"]) == each["attempt"]]
    at_work = most = 0
    for each in sorted(mine, key=lambda each: each["at"]):
        at_work += 1 if each["what"] == "begun" else -1
        most = max(most, at_work)
    return most


@pytest.mark.parametrize("workflow", [flows.LostOnce, flows.PlainLostOnce])
def test_the_work_of_a_killed_worker_recovers_together(deploy: Deploy, workflow: type[flows.LostOnce]) -> None:
    deployment = deploy()
    victim = deployment.worker("victim", FLOWS, pool="asyncio", concurrency=100).wait_ready()
    lost = 60 if workflow is flows.LostOnce else 8  # as many as there are threads for plain steps
    handlers = [deployment.start(workflow, seconds=0.5) for _ in range(lost)]
    deployment.await_effects("begun", lost)
    victim.kill_group()

    deployment.worker("heir", FLOWS, pool="asyncio", concurrency=100)

    assert [handler.result(50) for handler in handlers] == [2] * lost
    assert most_at_once(deployment.effects()) >= lost / 4


@pytest.mark.timeout(180)
def test_a_poison_step_beside_a_thousand_innocents_kills_few_processes_and_fails_no_other_step(
    deploy: Deploy,
) -> None:
    deployment = deploy()
    supervisor = Supervisor(deployment, pool="asyncio", concurrency=1100)
    innocents = [deployment.start(flows.LostOnce, seconds=0.2) for _ in range(1000)]
    deployment.await_effects("begun", 1000)
    poison = deployment.start(flows.Poison, seconds=0.0)

    def all_are_done() -> bool:
        supervisor.look()
        return poison.is_done() and len(deployment.effects("ended")) >= 1000

    eventually(all_are_done, "all but the poison are done", seconds=150)
    with pytest.raises(WorkerLost, match="was executing when its process died"):
        poison.result(10)
    # Once unsuspected, once per crowd, and alone as often as losses are charged.
    bound = 1 + (len(CROWDS) - 1) + deployment.settings.max_losses
    assert len(deployment.effects("dying")) <= bound
    assert supervisor.deaths <= bound
    # If a worker dies between a step's last line and its commit, the step is executed again.
    assert all(handler.result(60) >= 1 for handler in innocents)
