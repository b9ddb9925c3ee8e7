"""Durations that users name: finite, and small enough for timers to hold them to the millisecond."""

from __future__ import annotations

from typing import TypeGuard

#: About 300 years. Redis keeps the time of a timer as a double, and a script its delay as an integer of 64 bits.
LONGEST_SECONDS = 10_000_000_000


def is_duration(seconds: object) -> TypeGuard[float]:
    """Whether a timer can wait this number of seconds: not NaN or infinity. Less than 0 is over at once."""
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and abs(seconds) <= LONGEST_SECONDS


def is_time_from_now(seconds: object) -> TypeGuard[float]:
    """Whether it is a duration of 0 or more."""
    return is_duration(seconds) and seconds >= 0
