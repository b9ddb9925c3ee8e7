"""The measurements of the chaos suite, printed as a table at its end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Line:
    """The measurements of one fault over all tests and seeds."""

    seeds: set[int] = field(default_factory=set)
    runs: int = 0
    executions: int = 0
    absorbed: int = 0
    recovery_seconds: list[float] = field(default_factory=list)
    violations: int = 0


HEAD = ("fault", "seeds", "runs", "executions", "absorbed", "p50 s", "p99 s", "max s", "violations")


class RecoveryReport:
    """One line per fault.

    Attributes:
        passed: Failpoints that at least one process has passed.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self._added: list[dict[str, Any]] = []
        self._faults: dict[str, Line] = defaultdict(Line)

    def add(
        self,
        fault: str,
        *,
        seed: int,
        runs: int = 0,
        executions: int = 0,
        absorbed: int = 0,
        recovery_seconds: list[float] | tuple[float, ...] = (),
        violations: int = 0,
    ) -> None:
        """Record the outcome of injecting a fault.

        Args:
            fault: Number and description, as in `F1 pool child killed`.
            seed: The seed of the test.
            runs: How many runs were in progress.
            executions: How often their steps were executed.
            absorbed: Dispatches, commits and sends that were duplicate or late and had no effect.
            recovery_seconds: From the fault to the next progress, for each injection.
            violations: The number of violated invariants.
        """
        self._added.append(
            {
                "fault": fault,
                "seed": seed,
                "runs": runs,
                "executions": executions,
                "absorbed": absorbed,
                "recovery_seconds": list(recovery_seconds),
                "violations": violations,
            }
        )
        line = self._faults[fault]
        line.seeds.add(seed)
        line.runs += runs
        line.executions += executions
        line.absorbed += absorbed
        line.recovery_seconds.extend(recovery_seconds)
        line.violations += violations

    def exported(self) -> dict[str, Any]:
        """Return everything, for the report of another process."""
        return {"added": self._added, "passed": sorted(self.passed)}

    def take(self, exported: dict[str, Any]) -> None:
        """Add the export of another process."""
        for added in exported.get("added", []):
            self.add(**added)
        self.passed |= set(exported.get("passed", []))

    def lines(self) -> list[str]:
        """Return the rows of the table, aligned."""
        rows = [HEAD]
        for fault, line in sorted(self._faults.items(), key=lambda item: _number(item[0])):
            times = [f"{at(line.recovery_seconds, share):.2f}" for share in (0.5, 0.99, 1.0)]
            counts = (str(len(line.seeds)), str(line.runs), str(line.executions), str(line.absorbed))
            rows.append((fault, *counts, *(times if line.recovery_seconds else "---"), str(line.violations)))
        if len(rows) == 1:
            return []
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(fault: str) -> tuple[int, str]:
    digits = fault.split()[0].lstrip("F")
    return (int(digits) if digits.isdigit() else 1000, fault)


def at(values: list[float], share: float) -> float:
    """Return the quantile of these values; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
