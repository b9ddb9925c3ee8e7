"""What a worker logs about steps: by default only failures, at DEBUG every message and every end."""

from __future__ import annotations

import re

import pytest

from support.eventually import eventually
from support.flows import continuation as flows
from support.flows import everyday
from support.processes.continuation import FLOWS
from support.processes.driving import LONG_LEASES, Deploy

POOLS = ("asyncio", "prefork", "threads")


@pytest.mark.parametrize("events", [False, True], ids=["unwatched", "task-events"])
@pytest.mark.parametrize("pool", POOLS)
def test_at_the_default_level_only_failures_are_logged(deploy: Deploy, pool: str, events: bool) -> None:
    deployment = deploy(**LONG_LEASES)
    worker = deployment.worker("one", FLOWS, pool=pool, events=events).wait_ready()
    assert deployment.start(flows.Links, n=5).result(40) == 5
    with pytest.raises(everyday.Broken):
        deployment.start(flows.Falls).result(40)
    eventually(lambda: "attempt 3: " in worker.log(), "Celery's line for the last failure is there")
    lines = re.findall(r": (INFO|WARNING|ERROR|DEBUG)/\S+ (.*)", worker.log().partition(" ready.")[2])
    assert [level for level, text in lines if "failed on attempt" in text] == ["INFO", "INFO", "ERROR"]
    assert not [text for _, text in lines if re.search(r"received|succeeded|attempt \d (returned|fanned)", text)]


@pytest.mark.parametrize("pool", POOLS)
def test_at_debug_each_message_and_each_end_of_a_step_is_logged(deploy: Deploy, pool: str) -> None:
    deployment = deploy(**LONG_LEASES)
    worker = deployment.worker("one", FLOWS, pool=pool, log_level="DEBUG").wait_ready()
    assert deployment.start(flows.Links, n=5).result(40) == 5

    def levels(said: str) -> list[str]:
        return re.findall(rf": (INFO|DEBUG)/\S+ Task Links\.\S+ {said}", worker.log())

    eventually(lambda: levels("(?:succeeded|continued on this worker)") == ["DEBUG"] * 6, "six steps have ended")
    assert len(levels("received")) == len(levels("succeeded"))
    assert set(levels("received")) == {"DEBUG"}
