"""What a worker's log and the journals say about continuation past the broker."""

from __future__ import annotations

import re
from collections import Counter

from support.processes.driving import LONG_LEASES, Deployment, WorkerUnderTest
from umbel import WorkflowHandler

FLOWS = "support.flows.continuation"

#: Continuation that no slow machine brings to an end: what happened then did not happen by chance.
WITHOUT_END = LONG_LEASES | {"redispatch_seconds": 1.0, "continuation_seconds": 1000.0}


def messages(worker: WorkerUnderTest, task: str = "") -> int:
    """How many messages a worker has got."""
    return len(re.findall(rf"Task {task}\S* received", worker.log()))


def goings_on(worker: WorkerUnderTest, task: str = "") -> int:
    """How often a worker has gone on with something past the broker."""
    return len(re.findall(rf"Task {task}\S* continued on this worker", worker.log()))


def links(deployment: Deployment, handler: WorkflowHandler) -> Counter[int]:
    """How often each link of a chain was executed."""
    return Counter(each["n"] for each in deployment.effects("link", handler.run_id))
