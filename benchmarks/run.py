"""Measure umbel beside plain Celery: chained by hand, and as canvas.

    python -m benchmarks.run                         # everything, three repetitions, some minutes
    python -m benchmarks.run --repeat 5 --write      # and write docs/performance.md
    python -m benchmarks.chain                       # one group of rows: chain, fan, single, progress, memory

Machines differ and so do their moods: look at the ratios, which compare numbers measured one right after the other.
Settings of umbel are taken from `UMBEL_*`, which is how two of them are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .contenders import CONTENDERS, Contender, Workers, deployed
from .measure import FULL, QUICK, Shape, Sizes, shapes
from .table import Row, circumstances, markdown, plain, write_section

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None, group: str | None = None) -> None:
    """The command line; `group` limits it to one group of rows."""
    options = _parser(group).parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    chosen = [shape for shape in shapes(sizes) if group in (None, shape.group)]
    workers = Workers(options.processes, options.pool, options.concurrency)
    kinds = [CONTENDERS[name] for name in options.contenders]
    with deployed(kinds, workers) as contenders:
        rows = measured(chosen, contenders, sizes, options.repeat)
        redis_version = contenders[0].redis.info("server")["redis_version"]
    names = [kind.name for kind in kinds]
    about = circumstances(options.repeat, workers.text, redis_version)
    print(f"\n{plain(rows, names)}\n\nvs: how many times as good umbel is; above 1 it is the better one.\n{about}")
    if options.write:
        write_section(DOCUMENT, f"{about}\n\n{markdown(rows, names)}")


def measured(chosen: list[Shape], contenders: list[Contender], sizes: Sizes, repeat: int) -> list[Row]:
    """All numbers. For each shape and repetition one contender right after the other, each time another one first."""
    rows = [Row(shape, {contender.name: [] for contender in contenders}) for shape in chosen]
    for repetition in range(repeat):
        for row in rows:
            if row.shape.is_exact and repetition:
                continue
            start = repetition % len(contenders)
            for contender in contenders[start:] + contenders[:start]:
                number = row.shape.measure(contender, sizes)
                row.numbers[contender.name].append(number)
            print(f"[{repetition + 1}/{repeat}] {row.shape.title}: {_latest(row)}", file=sys.stderr, flush=True)
    return rows


def _latest(row: Row) -> str:
    last = {name: numbers[-1] for name, numbers in row.numbers.items()}
    shown = (f"{name} {'-' if number is None else f'{number:,.1f}'}" for name, number in last.items())
    return f"{', '.join(shown)} {row.shape.unit}"


def _parser(group: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{group or 'run'}", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, only to see that everything works")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes of each (default 1)")
    parser.add_argument("--pool", default="prefork", help="their Celery pool (default prefork)")
    parser.add_argument("--concurrency", type=int, default=2, metavar="N", help="of each process (default 2)")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME",
        help=f"of {', '.join(map(repr, CONTENDERS))} (default all)",
    )  # fmt: skip
    if group is None:
        parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.parent.name}/{DOCUMENT.name}")
    else:
        parser.set_defaults(write=False)
    return parser


if __name__ == "__main__":
    main()
