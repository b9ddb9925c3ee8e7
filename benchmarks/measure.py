"""Latencies, throughputs and processor time. Each function measures one contender."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from .contender import Contender
from .processor_time import processor_seconds
from .shape import Sizes
from .shapes_umbel import CHAIN_STEPS


def chain_alone(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds from start to result of a chain that runs alone."""
    return _median_ms(sizes.alone, lambda: run_chains(contender, 1))


def chains_at_once(contender: Contender, sizes: Sizes) -> float:
    """Steps per second of many chains."""
    runs = sizes.chains_at_once
    return runs * CHAIN_STEPS / seconds_of(lambda: run_chains(contender, runs))


def fan_alone(contender: Contender, sizes: Sizes) -> float | None:
    """Milliseconds of a fan-out with its join."""
    if contender.widest < sizes.fan:
        return None
    return _median_ms(sizes.fans_alone, lambda: contender.fans(1, sizes.fan))


def fans_at_once(contender: Contender, sizes: Sizes) -> float | None:
    """Steps per second of several fan-outs, split and join included."""
    return _fan_steps_per_second(contender, sizes.fans_at_once, sizes.fan)


def wide_fan(contender: Contender, sizes: Sizes) -> float | None:
    """Steps per second of one wide fan-out."""
    return _fan_steps_per_second(contender, 1, sizes.wide)


def widest_fan(contender: Contender, sizes: Sizes) -> float | None:
    """Steps per second of one very wide fan-out."""
    return _fan_steps_per_second(contender, 1, sizes.widest)


def growth_of_fans(contender: Contender, sizes: Sizes) -> float | None:
    """Seconds per step of a very wide fan-out, divided by those of a narrow one, both alone."""
    if contender.widest < sizes.widest:
        return None
    wide = 1 / (_fan_steps_per_second(contender, 1, sizes.widest) or 1)
    narrow = _median_ms(sizes.fans_alone, lambda: contender.fans(1, sizes.fan)) / 1000 / (sizes.fan + 2)
    return wide / narrow


def growth_of_processor_time(contender: Contender, sizes: Sizes) -> float | None:
    """Processor time per step of a very wide fan-out, divided by that of several narrow ones at once."""
    if contender.widest < sizes.widest:
        return None
    runs = max(1, sizes.widest // sizes.fan)
    wide = _processor_us(contender, sizes.widest + 2, lambda: contender.fans(1, sizes.widest))
    narrow = _processor_us(contender, runs * (sizes.fan + 2), lambda: contender.fans(runs, sizes.fan))
    return wide / narrow if wide and narrow else None


def processor_time_of_chains(contender: Contender, sizes: Sizes) -> float | None:
    """Microseconds per step of chains, in client, workers and Redis together."""
    runs = sizes.chains_at_once
    return _processor_us(contender, runs * CHAIN_STEPS, lambda: run_chains(contender, runs))


def processor_time_of_fans(contender: Contender, sizes: Sizes) -> float | None:
    """Microseconds per step of fan-outs, in client, workers and Redis together."""
    runs = sizes.fans_at_once
    return _processor_us(contender, runs * (sizes.fan + 2), lambda: contender.fans(runs, sizes.fan))


def single_step(contender: Contender, sizes: Sizes) -> float:
    """Milliseconds from the start of a run of one step to its result."""
    return _median_ms(sizes.alone * 3, contender.single)


def run_chains(contender: Contender, runs: int) -> None:
    """Chains at once, from the start of the first to the end of the last."""
    for _ in contender.chains(runs):
        pass


def seconds_of(act: Callable[[], None]) -> float:
    """Duration of a call."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _fan_steps_per_second(contender: Contender, runs: int, width: int) -> float | None:
    if contender.widest < width:
        return None
    return runs * (width + 2) / seconds_of(lambda: contender.fans(runs, width))


def _median_ms(times: int, act: Callable[[], None]) -> float:
    return statistics.median(seconds_of(act) for _ in range(times)) * 1000


def _processor_us(contender: Contender, steps: int, act: Callable[[], None]) -> float | None:
    pids = (contender.server_pid, *contender.worker_pids) if contender.worker_pids else ()
    before, own = processor_seconds(pids), time.process_time()
    act()
    own = time.process_time() - own  # of the client, which is this process
    after = processor_seconds(pids)
    return None if before is None or after is None else (after - before + own) / steps * 1e6
