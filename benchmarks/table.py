"""From measured numbers to a table: medians, spread, and ratios of numbers measured right after each other."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from .measure import Shape

#: Between these lines of docs/performance.md stands what `--write` writes.
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


@dataclass
class Row:
    """All numbers of one shape: per contender one for each repetition."""

    shape: Shape
    numbers: dict[str, list[float | None]] = field(default_factory=dict)

    def cell(self, name: str) -> str:
        """`median [smallest to largest]`."""
        found = [number for number in self.numbers.get(name, ()) if number is not None]
        if not found:
            return "-"
        spread = "" if len(found) == 1 else f" [{_short(min(found))} to {_short(max(found))}]"
        return f"{_short(statistics.median(found))}{spread}"

    def times_better(self, name: str, other: str) -> float | None:
        """How many times better `name` is: median of the ratios of each repetition."""
        pairs = zip(self.numbers.get(name, ()), self.numbers.get(other, ()), strict=False)
        ratios = [
            theirs / ours if self.shape.better == "lower" else ours / theirs
            for ours, theirs in pairs
            if ours is not None and theirs is not None and ours > 0 and theirs > 0
        ]
        return statistics.median(ratios) if ratios else None


def markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The table; the first contender is compared with each of the others."""
    first, *others = names
    heads = ["shape", "unit", *names, *(f"{first} is … times as good as {other}" for other in others)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        ratios = [row.times_better(first, other) for other in others]
        cells = [row.shape.title, row.shape.unit, *(row.cell(name) for name in names)]
        cells += ["-" if ratio is None else f"**{ratio:.2f}**" for ratio in ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plain(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The same for a terminal."""
    first, *others = names
    table = [["shape", "unit", *names, *(f"vs {other}" for other in others)]]
    for row in rows:
        ratios = [row.times_better(first, other) for other in others]
        table.append(
            [row.shape.title, row.shape.unit, *(row.cell(name) for name in names)]
            + ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def circumstances(repeat: int, workers: str, redis_version: str) -> str:
    """Where and when it was measured, in one paragraph."""
    load = os.getloadavg()[0]
    return (
        f"Measured on {datetime.datetime.now(datetime.UTC):%d %B %Y} on {os.cpu_count()} processors ({_processor()}), "
        f"Python {platform.python_version()}, Redis {redis_version} with append-only file (everysec), "
        f"Celery {version('celery')}, kombu {version('kombu')}, umbel {version('umbel')}. {workers}. "
        f"{repeat} repetitions, contenders in turn; the machine's load at the end was {load:.1f}."
    )


def write_section(path: Path, text: str) -> None:
    """Put `text` between the two marks of a file, which are added at its end if they are not there."""
    before = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n"
    head, begin, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2] if begin else "\n"
    if not begin:
        head = head.rstrip("\n") + "\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def _short(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
