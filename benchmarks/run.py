"""Measure umbel beside its peers, on this machine.

    python -m benchmarks.run                         # everything, five repetitions, about three quarters of an hour
    python -m benchmarks.run --write                 # and write docs/performance.md
    python -m benchmarks.run --quick                 # tiny numbers, only to see that everything works
    python -m benchmarks.run --only chain fan        # some groups of rows

Absolute numbers vary between machines and runs: look at the ratios, which compare numbers measured right after each
other. Peers that are not installed are left out (`pip install 'umbel[bench]'` installs them).
umbel takes its settings from `UMBEL_*`, so two configurations can be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from .contender import Contender
from .curves import curves, lines_of
from .deployed import deployed
from .document import DOCUMENT, circumstances, write_section
from .sections import Section, sections
from .shape import FULL, QUICK, Shape, Sizes
from .table import HEADS, Row, markdown, plain

#: Group of the cost curves, which are measured last.
CURVES = "curves"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write and (options.quick or options.only or options.contenders):
        parser.error("--write writes everything: leave out --quick, --only and --contenders")
    sizes = QUICK if options.quick else FULL
    if options.processes is not None:
        sizes = replace(sizes, processes=options.processes)
    only = set(options.only)
    report = Report(sizes, options.repeat)
    for section in sections_of(sizes, only, set(options.contenders)):
        report.measure(section)
    tables: list[list[tuple[str, ...]]] = [[HEADS, *(line for row in report.rows for line in row.lines())]]
    if not only or CURVES in only:
        tables.append(lines_of(curves(sizes, min(options.repeat, 3))))
    about = [circumstances(options.repeat, report.redis_version), "\n".join(f"- {each}" for each in report.about)]
    print("\n" + "\n\n".join([*map(plain, tables), *about]))
    if options.write:
        write_section(DOCUMENT, "\n\n".join([*about, *map(markdown, tables)]))


def sections_of(sizes: Sizes, only: set[str], names: set[str]) -> list[Section]:
    """The chosen groups, with the chosen contenders and those they are compared with; all if none is chosen."""
    chosen = []
    for section in sections(sizes):
        first, *others = section.entries
        shapes = [shape for shape in section.shapes if not only or shape.group in only]
        if shapes:
            chosen.append(Section([first, *(each for each in others if not names or each.name in names)], shapes))
    return chosen


class Report:
    """The measurements so far."""

    def __init__(self, sizes: Sizes, repeat: int) -> None:
        self._sizes, self._repeat = sizes, repeat
        self.rows: list[Row] = []
        self.about: list[str] = []
        self.redis_version = ""

    def measure(self, section: Section) -> None:
        """Add a section's rows. Contenders are restarted for each repetition, so none inherits another one's state."""
        rows: list[Row] | None = None
        for repetition in range(self._repeat):
            contenders = []
            for entry in section.entries:
                contender = entry.make()
                self._tell(f"{entry.name}: {'not installed' if contender is None else contender.about}.")
                if contender is not None:
                    contenders.append(contender)
            rows = rows or blank_rows(section.shapes, contenders)
            with deployed(contenders):
                self.redis_version = contenders[0].redis.info("server")["redis_version"]
                measure_once(rows, contenders, self._sizes, repetition, self._repeat, self._tell)
        self.rows += rows or []

    def _tell(self, text: str) -> None:
        if text not in self.about:
            self.about.append(text)


def blank_rows(shapes: Sequence[Shape], contenders: Sequence[Contender]) -> list[Row]:
    """Rows without numbers."""
    return [Row(shape, {contender.name: [] for contender in contenders}) for shape in shapes]


def measure_once(
    rows: Sequence[Row],
    contenders: Sequence[Contender],
    sizes: Sizes,
    repetition: int,
    repeat: int,
    tell: Callable[[str], None] = print,
) -> None:
    """Add the numbers of one repetition. For each row, contenders follow right after each other; the first one rotates.

    A peer that fails has no number for that repetition; `tell` reports it.

    Raises:
        Exception: umbel, the first contender, failed.
    """
    for row in rows:
        if row.shape.is_exact and repetition:
            continue
        start = repetition % len(contenders)
        for contender in [*contenders[start:], *contenders[:start]]:
            number = None
            try:
                number = row.shape.measure(contender, sizes)
            except Exception as error:
                if contender is contenders[0]:
                    raise
                tell(f"{contender.name} failed at {row.shape.title!r}, repetition {repetition + 1}: {error!r}.")
            row.numbers[contender.name].append(number)
        print(f"[{repetition + 1}/{repeat}] {row.shape.title}: {_latest(row)}", file=sys.stderr, flush=True)


def _latest(row: Row) -> str:
    last = {name: numbers[-1] for name, numbers in row.numbers.items()}
    shown = (f"{name} {number:,.1f}" for name, number in last.items() if number is not None)
    return f"{', '.join(shown)} {row.shape.unit}"


def _parser() -> argparse.ArgumentParser:
    every = sections(FULL)
    groups = [*dict.fromkeys(shape.group for section in every for shape in section.shapes), CURVES]
    names = list(dict.fromkeys(entry.name for section in every for entry in section.entries))
    parser = argparse.ArgumentParser(
        "python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="repetitions (default 5)")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, only to see that everything works")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.parent.name}/{DOCUMENT.name}")
    parser.add_argument("--processes", type=int, metavar="N", help="umbel's worker processes (default 2)")
    parser.add_argument(
        "--only", nargs="+", choices=groups, default=[], metavar="GROUP", help=f"of {', '.join(groups)} (default all)"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=names, default=[], metavar="NAME",
        help=f"beside umbel, of {', '.join(map(repr, names))} (default all)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
