"""Without any fault, every kind of run has the expected outcome in both pools. A failure here is not due to chaos."""

from __future__ import annotations

import pytest

from support.chaos.deployment import DeployChaos
from support.chaos.mixed_load import Load


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_runs_of_every_kind_end_as_they_must_and_leave_nothing_behind(
    deploy_chaos: DeployChaos, pool: str, seed: int
) -> None:
    deployment = deploy_chaos(seed=seed)
    deployment.workers_at("one", "two", pool=pool, concurrency=2 if pool == "prefork" else 50)
    load = Load(deployment, seed)
    load.start(30)
    load.await_all()
    assert load.judge() == []
