"""What a worker's log and the journals say about local continuation."""

from __future__ import annotations

import re
from collections import Counter

from support.processes.driving import LONG_LEASES, Deployment, WorkerUnderTest
from umbel import WorkflowHandler

FLOWS = "support.flows.continuation"

#: Continuation whose time limit is never reached, not even on a slow machine: results do not depend on timing.
WITHOUT_END = LONG_LEASES | {"redispatch_seconds": 1.0, "continuation_seconds": 1000.0}


def messages(worker: WorkerUnderTest, task: str = "") -> int:
    """Return how many messages a worker has received."""
    return len(re.findall(rf"Task {task}\S* received", worker.log()))


def goings_on(worker: WorkerUnderTest, task: str = "") -> int:
    """Return how often a worker has continued locally."""
    return len(re.findall(rf"Task {task}\S* continued on this worker", worker.log()))


def links(deployment: Deployment, handler: WorkflowHandler) -> Counter[int]:
    """Return how often each link of a chain was executed."""
    return Counter(each["n"] for each in deployment.effects("link", handler.run_id))
