"""What is measured, and how one number comes of it. Each function takes a contender and says nothing about others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .contenders import Contender
from .processor_time import processor_seconds
from .shapes_umbel import CHAIN_STEPS

Measure = Callable[[Contender, "Sizes"], float | None]


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `QUICK` only shows that all of it works."""

    alone: int = 30
    fans_alone: int = 10
    chains_at_once: int = 200
    fans_at_once: int = 20
    fan: int = 100
    wide: int = 1_000
    widest: int = 5_000
    ticks: int = 100
    stored_runs: int = 50
    stored_fans: int = 5
    settle_seconds: float = 3.0


FULL = Sizes()
QUICK = Sizes(
    alone=1, fans_alone=1, chains_at_once=2, fans_at_once=2, fan=5, wide=10, widest=20, ticks=2, stored_runs=2,
    stored_fans=1, settle_seconds=0.2,
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One row of the table.

    Attributes:
        group: The command that measures it alone, `python -m benchmarks.<group>`.
        title: What it is, with the sizes filled in.
        unit: Of the number.
        better: Which numbers are good.
        measure: Gives the number, None where a contender has no such thing.
        is_exact: Measured once: it does not depend on time.
    """

    group: str
    title: str
    unit: str
    better: Literal["lower", "higher"]
    measure: Measure
    is_exact: bool = False


def _seconds(act: Callable[[], None]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _median_ms(times: int, act: Callable[[], None]) -> float:
    return statistics.median(_seconds(act) for _ in range(times)) * 1000


def _chains(contender: Contender, runs: int) -> None:
    for _ in contender.chains(runs):
        pass


def chain_alone(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds from start to result of a chain with nothing beside it."""
    return _median_ms(sizes.alone, lambda: _chains(contender, 1))


def chains_at_once(contender: Contender, sizes: Sizes) -> float:
    """Steps per second of many chains."""
    return sizes.chains_at_once * CHAIN_STEPS / _seconds(lambda: _chains(contender, sizes.chains_at_once))


def fan_alone(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds of a fan-out with its join."""
    return _median_ms(sizes.fans_alone, lambda: contender.fans(1, sizes.fan))


def fans_at_once(contender: Contender, sizes: Sizes) -> float:
    """Steps per second of several fan-outs, split and join included."""
    return sizes.fans_at_once * (sizes.fan + 2) / _seconds(lambda: contender.fans(sizes.fans_at_once, sizes.fan))


def _processor_us(contender: Contender, steps: int, act: Callable[[], None]) -> float | None:
    before = processor_seconds(contender.processes)
    act()
    after = processor_seconds(contender.processes)
    return None if before is None or after is None else (after - before) / steps * 1e6


def processor_time_of_chains(contender: Contender, sizes: Sizes) -> float | None:
    """Microseconds per step of chains, in workers and Redis together."""
    runs = sizes.chains_at_once
    return _processor_us(contender, runs * CHAIN_STEPS, lambda: _chains(contender, runs))


def processor_time_of_fans(contender: Contender, sizes: Sizes) -> float | None:
    """Microseconds per step of fan-outs, in workers and Redis together."""
    runs = sizes.fans_at_once
    return _processor_us(contender, runs * (sizes.fan + 2), lambda: contender.fans(runs, sizes.fan))


def wide_fan(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds of one wide fan-out."""
    return _seconds(lambda: contender.fans(1, sizes.wide)) * 1000


def widest_fan(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds of one very wide fan-out."""
    return _seconds(lambda: contender.fans(1, sizes.widest)) * 1000


def single_step(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds from the start of a run of one step to its result."""
    return _median_ms(sizes.alone * 3, contender.single)


def progress(contender: Contender, sizes: Sizes) -> float | None:
    """Milliseconds from a step's writing of an event to its reader."""
    delays = contender.progress(sizes.ticks, 0.005)
    return None if delays is None else statistics.median(delays) * 1000


def bytes_finished_chain(contender: Contender, sizes: Sizes) -> float:
    """Redis memory that a finished chain leaves behind."""
    before = _settled_bytes(contender, sizes)
    _chains(contender, sizes.stored_runs)
    return (_settled_bytes(contender, sizes) - before) / sizes.stored_runs


def bytes_finished_fan(contender: Contender, sizes: Sizes) -> float:
    """Redis memory that a finished fan-out leaves behind."""
    before = _settled_bytes(contender, sizes)
    contender.fans(sizes.stored_fans, sizes.fan)
    return (_settled_bytes(contender, sizes) - before) / sizes.stored_fans


def bytes_running_chain(contender: Contender, sizes: Sizes) -> float:
    """Redis memory of a chain that is half-way, its message and all."""
    gate = "benchmark-gate"
    before = _settled_bytes(contender, sizes)
    chains = contender.chains(1, gate)
    next(chains)
    while not _somebody_waits(contender):
        time.sleep(0.01)
    used = _settled_bytes(contender, sizes) - before
    contender.redis.lpush(gate, 1)
    for _ in chains:
        pass
    return used


def _settled_bytes(contender: Contender, sizes: Sizes) -> int:
    """Once nothing changes any more: workers acknowledge and clear up after the client has its result."""
    before, since = contender.bytes(), time.monotonic()
    deadline = since + 30
    while (now := time.monotonic()) < min(since + sizes.settle_seconds, deadline):
        time.sleep(0.1)
        used = contender.bytes()
        if used != before:
            before, since = used, now
    return before


def _somebody_waits(contender: Contender) -> bool:
    # The worker's own consumer waits in BRPOP, so only a step at the gate waits in BLPOP.
    return any(each["cmd"] == "blpop" and "b" in each["flags"] for each in contender.redis.client_list())


def shapes(sizes: Sizes) -> list[Shape]:
    """All rows, in the order of measuring: memory first, while little is stored."""
    fan, chains, fans = sizes.fan, sizes.chains_at_once, sizes.fans_at_once
    return [
        Shape("memory", "Redis, a finished chain of 10", "bytes", "lower", bytes_finished_chain, True),
        Shape("memory", f"Redis, a finished fan-out of {fan}", "bytes", "lower", bytes_finished_fan, True),
        Shape("memory", "Redis, a chain of 10 half-way", "bytes", "lower", bytes_running_chain, True),
        Shape("single", "one step, start to result", "ms", "lower", single_step),
        Shape("chain", "chain of 10, alone", "ms", "lower", chain_alone),
        Shape("chain", f"chain of 10, {chains} at once", "steps/s", "higher", chains_at_once),
        Shape("chain", "processor time per step of a chain", "us", "lower", processor_time_of_chains),
        Shape("fan", f"fan-out of {fan} and join, alone", "ms", "lower", fan_alone),
        Shape("fan", f"fan-out of {fan} and join, {fans} at once", "steps/s", "higher", fans_at_once),
        Shape("fan", "processor time per step of a fan-out", "us", "lower", processor_time_of_fans),
        Shape("fan", f"fan-out of {sizes.wide:,} and join", "ms", "lower", wide_fan),
        Shape("fan", f"fan-out of {sizes.widest:,} and join", "ms", "lower", widest_fan),
        Shape("progress", "progress event, step to reader", "ms", "lower", progress),
    ]
