"""How long a failed step waits (combined with `+`) and when it gives up (combined with `|` and `&`).

Every wait is a function of the number of *earlier* failures, so the first delay has index 0. Durations are seconds or
`timedelta`s. The formulas are tenacity's, except that random waits draw from a generator with the given seed: tenacity
draws from the process-wide one, which would make a wait differ each time it is computed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Protocol

import tenacity
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .conditions import failed_call

Duration = float | timedelta


class WaitStrategy(Protocol):
    """Says how long to wait; any function with these parameters will do."""

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        """Seconds to wait after `attempts` earlier failures; the same seed always gives the same answer."""


class StopCondition(Protocol):
    """Says when to give up; any function with these parameters will do."""

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        """Whether to give up after `attempts` failures in `elapsed_time` seconds, before `upcoming_sleep` more."""


def _seconds(duration: Duration) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


class _Wait:
    """A wait of tenacity's with this one's fields, and a `+` that takes plain functions on either side."""

    _formula: ClassVar[Callable[..., wait_base]]

    def __add__(self, other: WaitStrategy) -> wait_combine:
        return wait_combine(self, other)

    def __radd__(self, other: WaitStrategy | int) -> WaitStrategy:
        if isinstance(other, int):  # sum() begins with 0
            return self
        return wait_combine(other, self)

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return float(self._formula(**vars(self))(failed_call(attempts + 1)))


@dataclass(frozen=True)
class wait_fixed(_Wait):
    """Wait equally long each time."""

    _formula = tenacity.wait_fixed
    wait: Duration


@dataclass(frozen=True)
class wait_none(_Wait):
    """Do not wait."""

    _formula = tenacity.wait_none


@dataclass(frozen=True)
class wait_incrementing(_Wait):
    """Wait `start`, and `increment` longer each time, at most `max`."""

    _formula = tenacity.wait_incrementing
    start: Duration = 0.0
    increment: Duration = 100.0
    max: Duration = float("inf")


@dataclass(frozen=True)
class wait_random(_Wait):
    """Wait between `min` and `max`, all equally likely."""

    min: Duration = 0.0
    max: Duration = 1.0

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return random.Random(seed).uniform(_seconds(self.min), _seconds(self.max))


@dataclass(frozen=True)
class wait_exponential(_Wait):
    """Wait `multiplier * exp_base ** attempts`, at least `min` and at most `max`."""

    multiplier: float = 1.0
    exp_base: float = 2.0
    max: Duration = 60.0
    min: Duration = 0.0

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        if self.multiplier <= 0 or _seconds(self.max) <= 0:  # tenacity answers `max` here once the power overflows
            return max(0.0, _seconds(self.min))
        # As a float, because tenacity lets an integer power grow to any size.
        wait = tenacity.wait_exponential(self.multiplier, self.max, float(self.exp_base), self.min)
        return float(wait(failed_call(attempts + 1)))


@dataclass(frozen=True)
class wait_random_exponential(_Wait):
    """Wait between `min` and what `wait_exponential` would wait ("full jitter")."""

    multiplier: float = 1.0
    exp_base: float = 2.0
    max: Duration = 60.0
    min: Duration = 0.0

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        longest = wait_exponential(self.multiplier, self.exp_base, self.max, self.min)(attempts)
        return random.Random(seed).uniform(_seconds(self.min), longest)


#: Another name for `wait_random_exponential`.
wait_full_jitter = wait_random_exponential


@dataclass(frozen=True)
class wait_exponential_jitter(_Wait):
    """Wait `initial * exp_base ** attempts` and up to `jitter` more, at most `max`."""

    initial: float = 1.0
    exp_base: float = 2.0
    max: Duration = 60.0
    jitter: Duration = 1.0

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        without_jitter = wait_exponential(self.initial, self.exp_base, max=float("inf"))(attempts)
        wanted = without_jitter + random.Random(seed).uniform(0.0, _seconds(self.jitter))
        return max(0.0, min(wanted, _seconds(self.max)))


class wait_chain(_Wait):
    """Wait as the first strategy says the first time, as the second says the second time, …; the last one repeats.

    Raises:
        ValueError: No strategy was given.
    """

    def __init__(self, *strategies: WaitStrategy) -> None:
        if not strategies:
            raise ValueError("wait_chain needs at least one strategy, such as wait_chain(wait_fixed(1)).")
        self.strategies = strategies

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        return self.strategies[min(attempts, len(self.strategies) - 1)](attempts, seed=seed)

    def __repr__(self) -> str:
        return f"wait_chain({', '.join(map(repr, self.strategies))})"


class wait_combine(_Wait):
    """Wait as long as all strategies together; also written `a + b` or `sum([a, b])`."""

    def __init__(self, *strategies: WaitStrategy) -> None:
        self.strategies = strategies

    def __call__(self, attempts: int, *, seed: int | None = None) -> float:
        # With one seed for all, two random waits would always draw the same number.
        seeds = [None if seed is None else seed + index for index in range(len(self.strategies))]
        return sum(wait(attempts, seed=own) for wait, own in zip(self.strategies, seeds, strict=True))

    def __repr__(self) -> str:
        return f"wait_combine({', '.join(map(repr, self.strategies))})"


class _Stop:
    """A stop of tenacity's with this one's fields, and operators that take plain functions on either side."""

    _rule: ClassVar[Callable[..., stop_base]]

    def __or__(self, other: StopCondition) -> stop_any:
        return stop_any(self, other)

    def __ror__(self, other: StopCondition) -> stop_any:
        return stop_any(other, self)

    def __and__(self, other: StopCondition) -> stop_all:
        return stop_all(self, other)

    def __rand__(self, other: StopCondition) -> stop_all:
        return stop_all(other, self)

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return bool(self._rule(**vars(self))(failed_call(attempts, elapsed_time, upcoming_sleep)))


@dataclass(frozen=True)
class stop_after_attempt(_Stop):
    """Give up after this many attempts in total, the first one included."""

    _rule = tenacity.stop_after_attempt
    max_attempt_number: int


@dataclass(frozen=True)
class stop_after_delay(_Stop):
    """Give up at a failure that comes this long after the first attempt began, or later."""

    _rule = tenacity.stop_after_delay
    max_delay: Duration


@dataclass(frozen=True)
class stop_before_delay(_Stop):
    """Give up when the next attempt would begin this long after the first one, or later."""

    _rule = tenacity.stop_before_delay
    max_delay: Duration


@dataclass(frozen=True)
class stop_never(_Stop):
    """Never give up."""

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return False


class stop_any(_Stop):
    """Give up when one of the conditions says so; also written `a | b`."""

    def __init__(self, *stops: StopCondition) -> None:
        self.stops = stops

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return any(stop(attempts, elapsed_time, upcoming_sleep=upcoming_sleep) for stop in self.stops)

    def __repr__(self) -> str:
        return f"stop_any({', '.join(map(repr, self.stops))})"


class stop_all(_Stop):
    """Give up when all conditions say so; also written `a & b`."""

    def __init__(self, *stops: StopCondition) -> None:
        self.stops = stops

    def __call__(self, attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return all(stop(attempts, elapsed_time, upcoming_sleep=upcoming_sleep) for stop in self.stops)

    def __repr__(self) -> str:
        return f"stop_all({', '.join(map(repr, self.stops))})"
