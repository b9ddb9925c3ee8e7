"""Progress events, from the step that writes them to the reader."""

from __future__ import annotations

import secrets
import statistics

from .contender import Contender, Progress
from .shape import Sizes

PAUSE_SECONDS = 0.005


def progress_alone(contender: Contender, sizes: Sizes) -> float | None:
    """Milliseconds from writing an event in a step to reading it."""
    return _median_ms(contender.progress(sizes.ticks, PAUSE_SECONDS))


def progress_burst(contender: Contender, sizes: Sizes) -> float | None:
    """The same for events that are written without a pause."""
    return _median_ms(contender.progress(sizes.burst, 0.0))


def round_trips_of_burst(contender: Contender, sizes: Sizes) -> float | None:
    """Commands sent to Redis for a burst, including those of its reader, minus those of the same run without events."""
    if not contender.has_redis:
        return None
    with_events = _commands(contender, sizes.burst)
    without = _commands(contender, 0)
    return None if with_events is None or without is None else with_events - without


def _median_ms(seen: Progress | None) -> float | None:
    if seen is None:
        return None
    assert seen.numbers == sorted(seen.numbers), "progress events came in another order than they were written in"
    return statistics.median(seen.delays) * 1000


def _commands(contender: Contender, count: int) -> int | None:
    """Commands that name the run's stream. Commands that scripts call are no round trips."""
    end = secrets.token_hex(8)
    with contender.redis.monitor() as monitor:
        seen = contender.progress(count, 0.0)
        contender.redis.echo(end)  # the monitor reports everything before it
        if seen is None:
            return None
        found = 0
        for each in monitor.listen():
            if end in each["command"]:
                return found
            found += seen.stream in each["command"] and each["client_type"] != "lua"
    raise AssertionError("a monitor tells for ever")
