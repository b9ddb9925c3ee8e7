"""Checks of durations and counts that users specify.

They are finite, and small enough for timers to be exact to the millisecond and for scripts to calculate with.
"""

from __future__ import annotations

from typing import TypeGuard

#: About 300 years. Redis stores a timer's time as a double, and a script its delay as a 64-bit integer.
LONGEST_SECONDS = 10_000_000_000

#: A year: the longest that a setting may let a process wait. The operating system has a limit for a thread's sleep.
LONGEST_WAIT_SECONDS = 31_536_000

#: The shortest that a timer can be: a millisecond.
SHORTEST_SECONDS = 0.001

#: The most of anything: events, bytes, workers. Lua calculates with doubles, and writes larger ones inexactly.
LARGEST_COUNT = 1_000_000_000_000


def is_duration(seconds: object) -> TypeGuard[float]:
    """Whether a timer can wait this number of seconds: not NaN or infinity. A negative one is due at once."""
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and abs(seconds) <= LONGEST_SECONDS


def is_time_from_now(seconds: object) -> TypeGuard[float]:
    """Whether it is a duration of 0 or more."""
    return is_duration(seconds) and seconds >= 0


def is_count(value: object, least: int = 1) -> TypeGuard[int]:
    """Whether it is a whole number from `least` to `LARGEST_COUNT`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST_COUNT
