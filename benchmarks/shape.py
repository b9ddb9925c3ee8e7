"""A row of the table: what is measured, how much of it, and umbel's targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Sizes:
    """The sizes of all measurements; `QUICK` only shows that everything works.

    Attributes:
        processes: Number of umbel's workers, unless specified otherwise.
    """

    processes: int = 2
    alone: int = 30
    fans_alone: int = 10
    chains_at_once: int = 200
    fans_at_once: int = 20
    fan: int = 100
    wide: int = 1_000
    widest: int = 5_000
    ticks: int = 100
    burst: int = 1_000
    stored_runs: int = 50
    stored_fans: int = 5
    settle_seconds: float = 3.0
    awaiting: int = 1_000
    awaited_seconds: float = 1.0
    computing: int = 100
    computed_seconds: float = 0.02
    idle_seconds: float = 20.0
    run_sizes: tuple[int, ...] = (100, 1_000, 5_000, 20_000)
    live_runs: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    worker_processes: tuple[int, ...] = (1, 2, 4)


FULL = Sizes()
QUICK = Sizes(
    processes=1, alone=1, fans_alone=1, chains_at_once=2, fans_at_once=2, fan=5, wide=10, widest=20, ticks=2, burst=10,
    stored_runs=2, stored_fans=1, settle_seconds=0.1, awaiting=5, awaited_seconds=0.01, computing=4,
    computed_seconds=0.001, idle_seconds=0.1, run_sizes=(10, 20), live_runs=(1, 2), worker_processes=(1,),
)  # fmt: skip

#: Measures a contender. Returns None if the contender has no such feature.
Measure = Callable[[Any, Sizes], float | None]


@dataclass(frozen=True)
class Shape:
    """One row.

    Attributes:
        group: The group by which it is chosen on the command line.
        title: The name of the row, with the sizes filled in.
        unit: The unit of the number.
        better: Whether lower or higher numbers are better.
        measure: Returns the number.
        targets: By contender, umbel's number divided by that contender's: at most this if lower is better, else at
            least.
        limits: By contender, the same for its own number.
        is_exact: Whether it does not depend on time; then it is measured once.
    """

    group: str
    title: str
    unit: str
    better: Literal["lower", "higher"]
    measure: Measure
    targets: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    is_exact: bool = False

    def reaches(self, number: float, target: float) -> bool:
        """Whether a number reaches a target."""
        return number <= target if self.better == "lower" else number >= target
