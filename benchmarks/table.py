"""Turns measured numbers into tables: medians, spread, and ratios of numbers measured right after each other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .shape import Shape

HEADS = ("shape", "unit", "who", "median [spread]", "umbel / other", "target", "")


@dataclass
class Row:
    """All numbers of one shape: for each contender, one per repetition. The first contender is umbel."""

    shape: Shape
    numbers: dict[str, list[float | None]]

    def cell(self, name: str) -> str:
        """`median [smallest to largest]`."""
        found = self._found(name)
        if not found:
            return "-"
        spread = "" if len(found) == 1 else f" [{short(min(found))} to {short(max(found))}]"
        return f"{short(statistics.median(found))}{spread}"

    def ratio(self, other: str) -> float | None:
        """umbel's number divided by another's: median of the ratios of each repetition."""
        pairs = zip(self.numbers[self._first], self.numbers[other], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
        return statistics.median(ratios) if ratios else None

    def lines(self) -> list[tuple[str, ...]]:
        """One line for each contender that has a number, under `HEADS`."""
        lines: list[tuple[str, ...]] = []
        for name in self.numbers:
            if not self._found(name):
                continue
            title = ("", "") if lines else (self.shape.title, self.shape.unit)
            ratio = None if name == self._first else self.ratio(name)
            shown = "" if ratio is None else f"{short(ratio)} x"
            lines.append((*title, name, self.cell(name), shown, *self._judged(name, ratio)))
        return lines

    def _judged(self, name: str, ratio: float | None) -> tuple[str, str]:
        if name in self.shape.limits:
            target, reached, unit = self.shape.limits[name], statistics.median(self._found(name)), self.shape.unit
        elif name in self.shape.targets and ratio is not None:
            target, reached, unit = self.shape.targets[name], ratio, "x"
        else:
            return "", ""
        bound = "at most" if self.shape.better == "lower" else "at least"
        return f"{bound} {target:g} {unit}", "met" if self.shape.reaches(reached, target) else "not met"

    @property
    def _first(self) -> str:
        return next(iter(self.numbers))

    def _found(self, name: str) -> list[float]:
        return [number for number in self.numbers[name] if number is not None]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|{'---|' * len(lines[0])}", *rest])


def plain(lines: Sequence[Sequence[str]]) -> str:
    """The same table for a terminal."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def short(number: float) -> str:
    """The number with its significant digits only."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
