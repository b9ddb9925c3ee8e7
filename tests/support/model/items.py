"""The parts of a run in the reference: work items and fan-outs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from umbel.orchestration.model.envelope import Envelope
from umbel.orchestration.model.plan import StepPlan


@dataclass
class Item:
    """One work item."""

    work_id: str
    step: StepPlan
    scope: str
    event_ids: list[str] = field(default_factory=list)
    recoveries: list[str] = field(default_factory=list)
    gathered: tuple[str, list[Envelope]] | None = None  # (scope id, members) of a fan-in
    state: str = "queued"
    dispatches: int = 0
    slot: int | None = None
    token: str | None = None
    claim_id: str | None = None
    owner: str | None = None
    failures: int = 0
    losses: int = 0
    charged: int = 0
    resumptions: int = 0
    suspicion: int = 0
    alone: bool = False
    waits_until: str | None = None
    late: bool = False
    batches: int = 0
    sent: set[str] | None = None
    is_cancelled: bool = False  # left as a blank in its step's queue
    awaited: int | None = None  # the number of child runs it waits for
    next_held: int = 1
    is_at_end: bool = False  # it has ended the run, whose end waits for child runs
    answers: dict[str, str | None] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """Return queue and priority."""
        return f"{self.step.queue or 'umbel'}/{self.step.priority or 0}"

    @property
    def spent(self) -> dict[str, int]:
        """Return the recoveries of its lineage."""
        merged: dict[str, int] = {}
        for packed in self.recoveries:
            for name, n in (json.loads(packed) if packed else {}).items():
                merged[name] = max(n, merged.get(name, 0))
        return merged

    def let_go(self) -> None:
        """Drop its claim."""
        self.token = self.claim_id = self.owner = None


@dataclass
class Ahead:
    """What was staged for a commit that has not happened yet: events with their use counts, member lists."""

    events: dict[str, int]
    members: set[str]


@dataclass
class FanOut:
    """An open fan-out scope."""

    parent: str
    joins: list[tuple[str, StepPlan]]
    recoveries: str
    members: dict[str, list[Envelope]]
    fired: set[str] = field(default_factory=set)


def innermost(path: str) -> str | None:
    """Return the id of the innermost fan-out of a path."""
    return path.rpartition("/")[2].partition(":")[0] if path else None
