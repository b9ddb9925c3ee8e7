"""The cost of a step with growing size of its run, number of concurrent runs, and number of workers.

python -m benchmarks.curves                      # some ten minutes
python -m benchmarks.curves --quick
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from . import measure
from .contend_umbel import Umbel
from .deployed import deployed
from .measure_memory import settled_bytes
from .shape import FULL, QUICK, Sizes
from .shapes_umbel import CHAIN_STEPS
from .table import plain, short
from .waiting import ask

HEADS = ("curve", "unit", "at", "median [spread]")


@dataclass
class Curve:
    """Numbers at growing sizes; at each size one for each repetition."""

    title: str
    unit: str
    points: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, at: int, act: Callable[..., float | None], *arguments: object) -> None:
        """Add the number that a call returns."""
        number = act(*arguments)
        assert number is not None
        self.points.setdefault(at, []).append(number)
        print(f"{self.title}, {at:,}: {short(number)} {self.unit}", file=sys.stderr, flush=True)

    def lines(self) -> list[tuple[str, ...]]:
        """One line for each size, under `HEADS`."""
        lines: list[tuple[str, ...]] = []
        for at, found in self.points.items():
            title = ("", "") if lines else (self.title, self.unit)
            spread = "" if len(found) == 1 else f" [{short(min(found))} to {short(max(found))}]"
            lines.append((*title, f"{at:,}", f"{short(statistics.median(found))}{spread}"))
        return lines


def curves(sizes: Sizes, repeat: int) -> list[Curve]:
    """All curves. Within a repetition the sizes are measured right after each other."""
    counts = sorted({*sizes.worker_processes, sizes.processes})
    umbels = [Umbel(f"umbel x {processes}", processes=processes) for processes in counts]
    with deployed(umbels):
        by_workers = _by_workers(umbels, sizes, repeat)
        usual = next(umbel for umbel in umbels if umbel.processes == sizes.processes)
        return [*by_workers, *_by_load(usual, sizes, repeat)]


def _by_workers(umbels: Sequence[Umbel], sizes: Sizes, repeat: int) -> list[Curve]:
    chains = Curve(f"chains of 10, {sizes.chains_at_once} at once, by worker processes", "steps/s")
    fans = Curve(f"fan-outs of {sizes.fan}, {sizes.fans_at_once} at once, by worker processes", "steps/s")
    for _ in range(repeat):
        for umbel in umbels:
            chains.measure(umbel.processes, measure.chains_at_once, umbel, sizes)
            fans.measure(umbel.processes, measure.fans_at_once, umbel, sizes)
    return [chains, fans]


def _by_load(umbel: Umbel, sizes: Sizes, repeat: int) -> list[Curve]:
    stored = Curve("Redis, by steps of a finished fan-out", "bytes per step")
    fans = Curve("fan-out and join, by its steps", "steps/s")
    loops = Curve("one step after the other, by their number", "steps/s")
    at_once = Curve("chains of 10, by runs at once", "steps/s")
    beside = Curve(f"chains of 10, {sizes.chains_at_once} at once, by other runs that wait", "steps/s")
    for steps in sizes.run_sizes:
        stored.measure(steps, _stored_per_step, umbel, sizes, steps)
    for _ in range(repeat):
        for steps in sizes.run_sizes:
            fans.measure(steps, _per_second, steps, umbel.fans, 1, steps - 2)
            loops.measure(steps, _per_second, steps, umbel.loop, steps)
        for runs in sizes.live_runs:
            at_once.measure(runs, _per_second, runs * CHAIN_STEPS, measure.run_chains, umbel, runs)
    waiting = 0
    for runs in sizes.live_runs:
        ask(umbel.runtime, runs - waiting)
        waiting = runs
        for _ in range(repeat):
            beside.measure(runs, measure.chains_at_once, umbel, sizes)
    return [fans, loops, at_once, beside, stored]


def _per_second(steps: int, act: Callable[..., None], *arguments: object) -> float:
    return steps / measure.seconds_of(lambda: act(*arguments))


def _stored_per_step(umbel: Umbel, sizes: Sizes, steps: int) -> float:
    before = settled_bytes(umbel, sizes)
    umbel.fans(1, steps - 2)
    return (settled_bytes(umbel, sizes) - before) / steps


def lines_of(found: Iterable[Curve]) -> list[tuple[str, ...]]:
    """All curves as one table."""
    return [HEADS, *(line for curve in found for line in curve.lines())]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.curves", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, only to see that everything works")
    options = parser.parse_args(arguments)
    print(f"\n{plain(lines_of(curves(QUICK if options.quick else FULL, options.repeat)))}")


if __name__ == "__main__":
    main()
