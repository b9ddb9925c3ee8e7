"""Runs that an older release has stored go on after the upgrade.

`written_by_4a0e3c6.json.gz` is the whole Redis of a deployment of commit 4a0e3c6, including its broker queues, written
right after a SIGKILL of its only worker. Its runs are in every state a run can be in; what each workflow of
`upgrade_flows` is in the middle of is said there. The file is never written again: it is what that release left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import upgrade_flows as flows
from stored_runs import StoredRuns

from support.processes.driving import Deploy, Deployment, assert_committed_once
from umbel import (
    StepTimeoutError,
    UnserializableValue,
    WorkerLost,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
)
from umbel.drawing import draw_most_recent_execution_mermaid

HERE = Path(__file__).parent

#: Run id -> result, of the runs that need nothing but a worker.
RESULTS: dict[str, Any] = {
    "started-without-worker": 64,
    "just-started": 81,
    "claimed": 25,
    "unclaimed": [6, 1],
    "answered-early": "early",
    "fan-out": [6, 55],
    "nested": [2, 3, 3],
    "join": "7 is seven",
    "line": [0, 1, 2, 3, 4],
    "collects": [1, 2, 3, 4],
    "sends-early": [1, 2, 3],
    "recovers": "mirror 2",
    "parked": "packed",
    "limited-1": 1,
    "limited-2": 2,
    "limited-3": 3,
    "stores": [],
    "typed": ["Account", "Ada", 12, "x=3 y=Decimal('0.1')"],
    "carries": ["2026-02-03T04:05:00+00:00", "9.90", "bytes", 1],
    "delayed": [2, "Broken"],
    "delayed-after-time-limit": [2, "StepTimeoutError"],
    "asks-briefly": "nobody answered",
}

#: Run id -> result, of the failed runs once they have been retried.
RETRIED: dict[str, Any] = {
    "failed": "1 first, attempt 1",
    "step-time-limit": "time limit",
    "unserializable": "unserializable",
    "worker-lost": "harmless now",
}

FAILURES: dict[str, tuple[type[Exception], str]] = {
    "failed": (flows.Broken, "no such colour"),
    "step-time-limit": (StepTimeoutError, "took longer than its timeout of 0.2 s"),
    "unserializable": (UnserializableValue, "result"),
    "worker-lost": (WorkerLost, "go"),
    "cancelled": (WorkflowCancelledByUser, "cancelled"),
    "run-time-limit": (WorkflowTimeoutError, "0.5"),
}


class Upgraded:
    """Today's client and worker on what the old release has stored."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def load(self, *, with_messages: bool) -> None:
        client, prefix = self.deployment.store.client, self.deployment.settings.key_prefix
        StoredRuns(HERE / "written_by_4a0e3c6.json.gz").load(client, prefix, with_messages=with_messages)

    def run(self, run_id: str) -> WorkflowHandler:
        return self.deployment.runtime.attach(run_id)

    def umbel(self, *command: str) -> str:
        """Today's command line."""
        done = subprocess.run(
            [sys.executable, "-m", "umbel.workers.cli", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        deployment = self.deployment.environment
        return deployment | {"PYTHONPATH": f"{HERE}:{deployment['PYTHONPATH']}"}

    def start_worker(self, pool: str) -> None:
        self.deployment.worker("new", "upgrade_flows", pool=pool, more=self.environment).wait_ready()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("pool", "with_messages"),
    [("asyncio", True), ("prefork", False)],
    ids=["asyncio, with its messages", "prefork, all messages lost"],
)
def test_runs_of_an_older_release_are_finished_by_this_one(deploy: Deploy, pool: str, with_messages: bool) -> None:
    upgraded = Upgraded(deploy())
    upgraded.load(with_messages=with_messages)
    for run_id, (error, text) in FAILURES.items():
        with pytest.raises(error, match=text):
            upgraded.run(run_id).result(1)
    assert [getattr(event, "text", None) for event in upgraded.run("completed").events()][:-1] == [
        "one",
        "two",
        "three",
    ]
    report = upgraded.run("completed").result(1)
    assert (type(report), report.pages, report.by) == (flows.Report, 3, "Ada")
    with pytest.raises(WorkflowRuntimeError, match="has ended"):
        upgraded.run("completed").send_event(flows.Answer(number=1, text="late"))

    listed = upgraded.umbel("runs", "--limit", "100", "--json")
    assert [run_id for run_id in [*RESULTS, *FAILURES] if f'"{run_id}"' not in listed] == []
    for run_id in ("failed", "fan-out", "parked", "limited-2"):
        assert run_id in upgraded.umbel("show", run_id)

    upgraded.start_worker(pool)
    upgraded.run("asks").send_event(flows.Answer(number=1, text="the first"))
    upgraded.run("asks-for-long").send_event(flows.Answer(number=2, text="the second"))
    upgraded.umbel("retry", *RETRIED)

    expected = RESULTS | RETRIED | {"asks": "the first", "asks-for-long": "the second"}
    found = {run_id: upgraded.run(run_id).result(90) for run_id in expected}
    assert found == expected
    for run_id in RESULTS:
        assert_committed_once(upgraded.deployment.executions(run_id))
    drawing = draw_most_recent_execution_mermaid(upgraded.run("fan-out"))
    assert drawing.count("square<br/>") == 6
    assert drawing.count("new@") == 4
    assert json.loads(upgraded.umbel("failed", "--json")) == {"runs": [], "parked": [], "messages": []}
