"""Capacity and memory of umbel's worker processes."""

from __future__ import annotations

import re
import time
from pathlib import Path

from .contend_umbel import Umbel
from .contender import Contender
from .measure import seconds_of
from .processor_time import processor_seconds
from .shape import Sizes


def awaiting(umbel: Umbel, sizes: Sizes) -> float:
    """Seconds of a run whose steps all wait at once."""
    return seconds_of(lambda: umbel.awaiting(sizes.awaiting, sizes.awaited_seconds))


def peak_memory(umbel: Umbel, sizes: Sizes) -> float | None:
    """Peak memory of a worker in megabytes, by the end of such a run."""
    umbel.awaiting(sizes.awaiting, sizes.awaited_seconds)
    found = [_peak_megabytes(pid) for pid in umbel.worker_pids]
    return max((each for each in found if each is not None), default=None)


def computing(umbel: Umbel, sizes: Sizes) -> float:
    """Steps per second of a run whose steps compute."""
    return sizes.computing / seconds_of(lambda: umbel.computing(sizes.computing, sizes.computed_seconds))


def idle(contender: Contender, sizes: Sizes) -> float | None:
    """Percentage of a processor that an idle worker uses, including its periodic work."""
    before = processor_seconds(contender.worker_pids)
    time.sleep(sizes.idle_seconds)
    after = processor_seconds(contender.worker_pids)
    if before is None or after is None:
        return None
    return (after - before) / sizes.idle_seconds / len(contender.worker_pids) * 100


def _peak_megabytes(pid: int) -> float | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024 / 1e6
