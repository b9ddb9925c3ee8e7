"""A run of the random world: its model, and what its executors know about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support.model.items import Item
from support.model.reference import ModelRun
from umbel.orchestration.model.work_item import Outcome, Work
from umbel.orchestration.store.replies import Dispatch


@dataclass
class LiveRun:
    """A run in the world."""

    model: ModelRun
    start: dict[str, Any]
    dispatches: list[Dispatch] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)  # claimed, as far as the executor knows
    stale: list[Work] = field(default_factory=list)
    doomed: set[str] = field(default_factory=set)  # tokens whose process dies before it commits
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # token -> staged outcome that it must report
    age: int = 0

    def item_of(self, work: Work) -> Item | None:
        """Return the work's item while it is still under this claim."""
        item = self.model.items.get(work.work_id)
        mine = item is not None and item.state == "running" and item.token == work.token
        return item if mine and self.model.status == "running" else None
