"""A failed step leaves nothing in its process."""

from __future__ import annotations

import pytest

from support.eventually import eventually
from support.flows import failing as flows
from support.processes.driving import Deploy


@pytest.mark.parametrize("pool", ["asyncio", "threads"])
def test_a_failed_steps_error_and_locals_are_freed_without_a_garbage_collection(deploy: Deploy, pool: str) -> None:
    deployment = deploy()
    deployment.worker("one", "support.flows.failing", pool=pool, concurrency=4).wait_ready()
    deployment.start(flows.Uncollected).result(40)
    kinds = [flows.FailsOnLoop, flows.FailsInThread, flows.FailsAgain]
    for handler in [deployment.start(kind) for kind in kinds for _ in range(5)]:
        with pytest.raises(Exception, match="failed"):
            handler.result(40)
    # A thread that waits for its next task may still hold objects of its last one.
    eventually(lambda: deployment.start(flows.Alive).result(40) == [60, 0], "all of it is freed")
