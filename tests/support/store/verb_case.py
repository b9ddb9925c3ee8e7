"""A verb of the store as a case that may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.store.blocking import BlockingStore as Store
from support.store.driving import DrivenRun, plan_of, step
from umbel.orchestration.model.envelope import START
from umbel.orchestration.model.work_item import Work
from umbel.orchestration.store.replies import Applied

PLAN = plan_of(
    step("begin", START, collected_by=("all",), timeout_seconds=50),
    step("work", "A", num_workers=2),
    step("pair", "L", "L", kind="all_of"),
    step("all", "M", kind="collect"),
)


@dataclass
class Case:
    """A verb, ready to be called; `again` gives the reply to a repeated call, None means the same reply."""

    verb: str
    ask: Callable[[], Any]
    again: Callable[[Any], Any] | None = None


def claimed(store: Store, plan: Any = PLAN) -> tuple[DrivenRun, Work]:
    run = DrivenRun(store, plan).start(timeout_seconds=100)
    return run, run.claim("begin")


def unheard(_: Any) -> Applied:
    """The second reply has no dispatches: the unclaimed index remembers those of the first."""
    return Applied()
