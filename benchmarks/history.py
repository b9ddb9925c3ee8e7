"""The cost of history: a step with all values in the journal or with a summary, and reading points far back.

    python -m benchmarks.history           # some minutes
    python -m benchmarks.history --quick

Processor time is the total of client, workers and Redis, until every journal has been compressed too.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .contend_umbel import Umbel
from .deployed import deployed
from .measure import run_chains, seconds_of
from .processor_time import processor_seconds
from .shapes_umbel import CHAIN_STEPS
from .waiting import wait_until


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurements.

    Attributes:
        chains: Number of concurrent runs of ten steps.
        width: Width of a fan-out.
        repeat: How often each is measured, in turn.
        entries: Number of steps of a long run.
        points: Number of points of it that are read.
        pack_after_seconds: Time from a run's end until its journal is compressed; workers check four times as often.
    """

    chains: int = 400
    width: int = 1_000
    repeat: int = 3
    entries: int = 20_000
    points: int = 20
    pack_after_seconds: float = 4.0


QUICK = Sizes(chains=4, width=20, repeat=1, entries=30, points=2, pack_after_seconds=0.4)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser("python -m benchmarks.history", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that all of it works")
    sizes = QUICK if parser.parse_args().quick else Sizes()
    about = {"history_pack_after_seconds": sizes.pack_after_seconds}
    full = Umbel("all values", processes=1, settings=about)
    summary = Umbel("a summary", processes=1, settings=about | {"history": "summary"})
    with deployed([full, summary]):
        for title, steps, act in (
            ("chain of ten", sizes.chains * CHAIN_STEPS, lambda umbel: run_chains(umbel, sizes.chains)),
            (f"fan-out of {sizes.width}", sizes.width + 2, lambda umbel: umbel.fans(1, sizes.width)),
        ):
            costs: dict[str, list[float]] = {full.name: [], summary.name: []}
            for number in range(2 * sizes.repeat):
                umbel = (full, summary)[number % 2]
                costs[umbel.name].append(_processor_us(umbel, steps, act))
            with_all, with_less = (statistics.median(costs[umbel.name]) for umbel in (full, summary))
            _row(f"{title}, processor time per step, all values in the journal", f"{with_all:,.0f} us")
            _row(f"{title}, the same, a summary", f"{with_less:,.0f} us")
            _row(f"{title}, more (target: at most 15 %)", f"{100 * (with_all / with_less - 1):.0f} %")
        found = sorted(_seconds_per_point(full, sizes))
    _row(
        f"a point of a run of {sizes.entries:,} entries, median (target: below 0.5 s)",
        f"{statistics.median(found):.2f} s",
    )
    _row("the slowest", f"{found[-1]:.2f} s")


def _row(title: str, number: str) -> None:
    print(f"{title}  {number}", flush=True)


def _processor_us(umbel: Umbel, steps: int, act: Callable[[Umbel], None]) -> float:
    """Processor time per step, until everything the steps left behind is compressed."""
    pids = (umbel.server_pid, *umbel.worker_pids)
    before, own = processor_seconds(pids), time.process_time()
    if before is None:
        sys.exit("The processor time of other processes can be seen on Linux only.")
    act(umbel)
    own = time.process_time() - own
    wait_until(lambda: not _unpacked(umbel), "all journals are compressed")
    after = processor_seconds(pids)
    assert after is not None
    return (after - before + own) / steps * 1e6


def _unpacked(umbel: Umbel) -> bool:
    """Whether any journal is not compressed yet."""
    time.sleep(0.2)  # looking costs Redis time, which is measured too
    return any(umbel.redis.xlen(key) for key in umbel.redis.scan_iter("*:journal", count=10_000))


def _seconds_per_point(umbel: Umbel, sizes: Sizes) -> list[float]:
    handler = umbel.long_run(sizes.entries)
    wait_until(lambda: not _unpacked(umbel), "its journal is compressed")
    chosen = random.Random(1)
    return [seconds_of(lambda: handler.at(chosen.randint(1, sizes.entries))) for _ in range(sizes.points)]


if __name__ == "__main__":
    main()
