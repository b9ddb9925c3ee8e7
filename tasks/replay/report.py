"""The findings of a replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ReplayedAttempt:
    """The attempt that a finding is about.

    Attributes:
        run_id: Its run.
        seq: Number of the change in the run's history that has the attempt's outcome; 0 for the run as a whole.
        step: The step.
        attempt: Number of the attempt, from 1.
        work_id: The work item.
    """

    run_id: str
    seq: int
    step: str
    attempt: int
    work_id: str

    def __str__(self) -> str:
        return f"run {self.run_id}" + (f", change {self.seq}, {self.step} attempt {self.attempt}" if self.seq else "")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something that a step does differently from its record.

    Attributes:
        at: The attempt.
        what: `outcome`, `returned`, `failed`, `waits`, `started` (children), `sent`, `state`, `streamed`, `collected`.
        recorded: The value in the journal, as JSON; None for nothing.
        replayed: The value with today's code.
    """

    at: ReplayedAttempt
    what: str
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        return f"{self.at}: {self.what}\n  recorded: {_shown(self.recorded)}\n  replayed: {_shown(self.replayed)}"


@dataclass(frozen=True, slots=True)
class NotReplayed:
    """An attempt, or a whole run, that could not be compared.

    Attributes:
        at: The attempt.
        reason: Why it could not be compared.
    """

    at: ReplayedAttempt
    reason: str

    def __str__(self) -> str:
        return f"{self.at}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The findings of a replay.

    Attributes:
        runs: The runs.
        equal: Number of attempts that did what is recorded.
        mismatches: The differences.
        not_replayed: What could not be compared; it counts neither as equal nor as a mismatch.
    """

    runs: tuple[str, ...] = ()
    equal: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    not_replayed: tuple[NotReplayed, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether there are no mismatches. `not_replayed` does not count: look at it too."""
        return not self.mismatches


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
