"""Many steps of one run that wait at once: how long until all of them wait, and until all are answered.

python -m benchmarks.measure_waits               # 250, 500 and 1,000 waits: the seconds should grow in proportion
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from umbel import Runtime

from .contend_umbel import Umbel
from .contender import PATIENCE_SECONDS
from .deployed import deployed
from .shape import FULL, Sizes
from .shapes_waiting import AskMany, Reply
from .waiting import wait_until


@dataclass(frozen=True)
class Seconds:
    """Durations of one run.

    Attributes:
        waiting: From its start until all its steps waited.
        answered: From the first answer until its end; the answers were sent at once.
        early: From the start to the end of a run that got its answers before its steps waited.
    """

    waiting: float
    answered: float
    early: float


def waits_in_one_run(contender: Umbel, sizes: Sizes) -> float:
    """Seconds until all steps of a fan-out wait, each for an event of its own."""
    return _waited(contender.runtime, sizes.awaiting)[0]


def answers_in_one_run(contender: Umbel, sizes: Sizes) -> float:
    """Seconds from the first answer to the end of such a run."""
    return _waited(contender.runtime, sizes.awaiting)[1]


def measured(contender: Umbel, width: int) -> Seconds:
    """All durations for one width."""
    waiting, answered = _waited(contender.runtime, width)
    return Seconds(waiting, answered, _answered_early(contender.runtime, width))


def _waited(runtime: Runtime, width: int) -> tuple[float, float]:
    began = time.perf_counter()
    handler = AskMany(timeout=None, runtime=runtime).start(width=width)
    key = runtime.store.locate(handler.run_id)["waiters"]
    wait_until(lambda: runtime.portal.call(runtime.store.command("count", "HLEN", key)) == width, "all waits", 0.005)
    waiting = time.perf_counter()
    asyncio.run(_answer(runtime, handler.run_id, width))
    assert handler.result(PATIENCE_SECONDS) == width
    return waiting - began, time.perf_counter() - waiting


def _answered_early(runtime: Runtime, width: int) -> float:
    began = time.perf_counter()
    handler = AskMany(timeout=None, runtime=runtime).start(width=width)
    asyncio.run(_answer(runtime, handler.run_id, width))
    assert handler.result(PATIENCE_SECONDS) == width
    return time.perf_counter() - began


async def _answer(runtime: Runtime, run_id: str, width: int) -> None:
    handler = runtime.attach(run_id)
    await asyncio.gather(*(handler.send_event(Reply(number=number)) for number in range(width)))


def rows(widths: Sequence[int], processes: int) -> Iterator[str]:
    """One line for each width."""
    contender = Umbel(processes=processes)
    with deployed([contender]):
        measured(contender, 20)
        yield f"{'waits':>8}  {'all wait':>9}  {'answered':>9}  {'early':>9}   (seconds)"
        for width in widths:
            found = measured(contender, width)
            yield f"{width:>8,}  {found.waiting:>9.2f}  {found.answered:>9.2f}  {found.early:>9.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser("python -m benchmarks.measure_waits", description=__doc__)
    parser.add_argument("widths", nargs="*", type=int, default=[250, 500, 1_000], help="waits in one run")
    parser.add_argument("--processes", type=int, default=FULL.processes, metavar="N", help="workers (default 2)")
    options = parser.parse_args(arguments)
    for line in rows(options.widths, options.processes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
