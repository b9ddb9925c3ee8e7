"""Runs whose work is held by processes that die."""

from __future__ import annotations

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, event, plan_of, step
from umbel.orchestration.engine.leases import Held
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import FannedOut, Work

PLAN = plan_of(step("begin", START), step("work", "A", num_workers=10, timeout_seconds=60))


def run_with_three_items(store: Store) -> DrivenRun:
    """Return a run whose step `work` has three items to execute."""
    run = DrivenRun(store, PLAN).start()
    run.commit(run.claim("begin"), FannedOut((event("A"),) * 3))
    return run


def of(work: Work) -> Held:
    return Held.parse(work.member)


def lease(run: DrivenRun, owner: str) -> float | None:
    score: float | None = run.store.client.zscore(run.keys["leases"], owner)
    return score


def expire(run: DrivenRun, owner: str) -> None:
    assert run.store.client.zadd(run.keys["leases"], {owner: 1}, xx=True, ch=True)


def lose(run: DrivenRun, owner: str, *works: Work) -> None:
    """Let the owner die while it holds these work items."""
    held = run.leases.fence(owner, run.keys.shard, known_dead=True)
    assert set(held) == {of(work) for work in works}
    for _, applied in run.leases.hand_back(owner, held, charge=True):
        run.heard(applied)
