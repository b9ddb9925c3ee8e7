"""A sweep that the test triggers, and what it dispatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from support.store.blocking import blocking_sweep
from support.store.driving import DrivenRun, event, plan_of, step
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.plan import Plan
from umbel.orchestration.model.work_item import FannedOut
from umbel.orchestration.store.replies import Dispatch

PLAN = plan_of(
    step("begin", START),
    step("work", "A", num_workers=100),
    step("urgent", "U", num_workers=100, priority=9),
    step("gpu", "G", num_workers=100, queue="gpu"),
)


class Sent:
    """A dispatcher that records its dispatches."""

    def __init__(self) -> None:
        self.sent: list[Dispatch] = []

    async def dispatch(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        self.dispatch_soon(plan, dispatches)

    def dispatch_soon(self, plan: Plan, dispatches: Sequence[Dispatch]) -> None:
        assert all(dispatch.step in plan.by_name for dispatch in dispatches)
        self.sent.extend(dispatches)

    def steps(self) -> list[str]:
        """Return the steps dispatched since the last call."""
        found, self.sent = sorted(dispatch.step for dispatch in self.sent), []
        return found


def sweeping(run: DrivenRun, dispatches: Sent, backlog: Callable[[str], int | None] = lambda _: 0) -> int:
    return blocking_sweep(run.store, dispatches, backlog).sweep(everything=True)


def fan(run: DrivenRun, *names: str) -> None:
    run.start()
    run.commit(run.claim("begin"), FannedOut(tuple(event(name) for name in names)))


def dispatched(run: DrivenRun, dispatch: Dispatch, at: int) -> None:
    """Pretend that the next check of a dispatch is due at this instant."""
    member = f"{run.run_id}|{dispatch.work_id}|{dispatch.queue}/{dispatch.priority}"
    assert run.store.client.zscore(run.keys["unclaimed"], member) is not None
    run.store.client.zadd(run.keys["unclaimed"], {member: at})
