"""Checks of durations that users specify: finite, and small enough for timers to be exact to the millisecond."""

from __future__ import annotations

from typing import TypeGuard

#: About 300 years. Redis stores a timer's time as a double, and a script its delay as a 64-bit integer.
LONGEST_SECONDS = 10_000_000_000


def is_duration(seconds: object) -> TypeGuard[float]:
    """Whether a timer can wait this number of seconds: not NaN or infinity. A negative one is due at once."""
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and abs(seconds) <= LONGEST_SECONDS


def is_time_from_now(seconds: object) -> TypeGuard[float]:
    """Whether it is a duration of 0 or more."""
    return is_duration(seconds) and seconds >= 0
