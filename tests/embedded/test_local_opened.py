"""`umbel.local(…)` without a block: opened in one place, closed in another, as in a notebook."""

from __future__ import annotations

import os

import pytest

import umbel
from support.eventually import eventually
from support.flows import everyday as flows
from support.processes.driving import QUICK, descendants
from umbel import ConfigurationError, NotConfigured
from umbel.tasks.client.runtime import Runtime


def default_runtime() -> Runtime | None:
    """Return the runtime on which a workflow starts by default."""
    try:
        return flows.OnGpu().runtime
    except NotConfigured:
        return None


def test_what_is_opened_serves_until_it_is_closed_and_may_be_opened_again() -> None:
    before, outside = descendants(os.getpid()), default_runtime()
    deployment = umbel.local("support.flows.everyday", concurrency=1, settings=umbel.Settings(**QUICK))
    with pytest.raises(ConfigurationError, match=r"is not open\. Call its open\(\)"):
        _ = deployment.runtime

    for _ in range(2):
        assert deployment.open() is deployment.open()
        assert flows.Fails(timeout=30).runtime is deployment.runtime
        assert flows.OnGpu().start().result(timeout=40) == 10
        deployment.close()
        deployment.close()
        eventually(lambda: descendants(os.getpid()) <= before, "no process is left")
        assert default_runtime() is outside


def test_a_block_closes_what_was_opened_before() -> None:
    before = descendants(os.getpid())
    deployment = umbel.local(concurrency=1).open()
    with deployment as runtime:
        assert runtime is deployment.runtime
    eventually(lambda: descendants(os.getpid()) <= before, "no process is left")
