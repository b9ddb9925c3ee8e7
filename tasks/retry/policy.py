"""When a failed step runs again.

    @step(retry_policy=retry_policy(
        retry=retry_if_exception_type((ConnectionError, TimeoutError)),
        wait=wait_exponential_jitter(initial=0.5, max=30) + wait_fixed(1),
        stop=stop_after_attempt(5) | stop_after_delay(120),
    ))

A step without a policy is not retried. Conditions, waits and stops are those of the `tenacity` library, with two
differences:

- Random waits draw from a seed made of the run, the step and the failure: the same failure of the same run always waits
  equally long, in every process.
- `match=` searches the whole message and not only its beginning.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from ...orchestration.model.durations import LONGEST_SECONDS, is_duration
from ...orchestration.model.errors import WorkflowRuntimeError
from .conditions import RetryCondition, retry_always
from .timing import (
    StopCondition,
    WaitStrategy,
    stop_after_attempt,
    wait_exponential,
    wait_fixed,
    wait_random_exponential,
)


@dataclass(frozen=True)
class RetryInfo:
    """What `ctx.retry_info()` returns: a step's earlier failures.

    Attributes:
        retry_number: 0 in the first execution, 1 in the first retry, …
        elapsed_seconds: Since the first execution began; 0.0 in the first execution.
        last_exception: The latest failure, without its traceback; None in the first execution.
        last_failed_at: When that was, in UTC; None in the first execution.
    """

    retry_number: int = 0
    elapsed_seconds: float = 0.0
    last_exception: Exception | None = None
    last_failed_at: datetime | None = None


@runtime_checkable
class RetryPolicy(Protocol):
    """Anything that can say how long to wait after a failure. Objects of your own need only this method."""

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        """Decide about one failure.

        Args:
            elapsed_time: Seconds since the step's first execution began.
            attempts: Failures so far, this one included; 1 at the first.
            error: What the step raised.
            seed: Makes random waits repeatable. An object of your own may leave this parameter out.

        Returns:
            Seconds until the next attempt (0 is at once), or None to give up.
        """


def retry_policy(
    retry: RetryCondition | None = None,
    wait: WaitStrategy | None = None,
    stop: StopCondition | None = None,
) -> RetryPolicy:
    """Compose a policy; its parts are consulted in the order `retry`, `wait`, `stop`.

    Args:
        retry: Which failures are retried; by default every one.
        wait: How long to wait; by default 5 seconds.
        stop: When to give up; by default after 3 attempts in total.
    """
    return _ComposedPolicy(retry or retry_always(), wait or wait_fixed(5), stop or stop_after_attempt(3))


@dataclass(frozen=True)
class _ComposedPolicy:
    retry: RetryCondition
    wait: WaitStrategy
    stop: StopCondition

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        if not self.retry(error):
            return None
        delay = self.wait(attempts - 1, seed=seed)
        return None if self.stop(attempts, elapsed_time, upcoming_sleep=delay) else delay


def next_delay(policy: RetryPolicy, elapsed_seconds: float, failures: int, error: Exception, seed: int) -> float | None:
    """Consult any policy object about a failure, also one whose `next` takes no seed.

    Args:
        policy: The step's policy.
        elapsed_seconds: Since the step's first execution began.
        failures: Failures so far, this one included.
        error: What the step raised.
        seed: See `jitter_seed`.

    Returns:
        Seconds until the next attempt, never negative; None to give up.

    Raises:
        WorkflowRuntimeError: The policy returned something that is not a number of seconds a timer can wait.
    """
    consult: Callable[..., Any] = policy.next
    parameters = inspect.signature(consult).parameters
    takes_seed = "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    delay = consult(elapsed_seconds, failures, error, **({"seed": seed} if takes_seed else {}))
    if delay is None:
        return None
    if not is_duration(delay):
        raise WorkflowRuntimeError(
            f"The retry policy {policy!r} returned {delay!r} for failure {failures} ({type(error).__qualname__}). Its "
            f"next() must return the seconds to wait as a finite number up to {LONGEST_SECONDS:,}, or None to give up."
        )
    return max(0.0, float(delay))


def jitter_seed(run_id: str, step: str, failures: int) -> int:
    """The seed of random waits: 32 bits that depend only on this failure of this run."""
    digest = hashlib.sha256(f"{run_id}:{step}:{failures}".encode()).digest()
    return int.from_bytes(digest[-4:], "big")


def ConstantDelayRetryPolicy(maximum_attempts: int = 3, delay: float = 5) -> RetryPolicy:
    """Deprecated: use `retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(maximum_attempts))`."""
    _warn("ConstantDelayRetryPolicy", "wait_fixed(delay)")
    return retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(maximum_attempts))


def ExponentialBackoffRetryPolicy(
    maximum_attempts: int = 5,
    initial_delay: float = 1.0,
    multiplier: float = 2.0,
    max_delay: float = 60.0,
    jitter: bool = True,
) -> RetryPolicy:
    """Deprecated: use `retry_policy` with `wait_random_exponential`, or `wait_exponential` for `jitter=False`."""
    _warn("ExponentialBackoffRetryPolicy", "wait_random_exponential(…)" if jitter else "wait_exponential(…)")
    wait = wait_random_exponential if jitter else wait_exponential
    return retry_policy(
        wait=wait(multiplier=initial_delay, exp_base=multiplier, max=max_delay),
        stop=stop_after_attempt(maximum_attempts),
    )


def _warn(name: str, wait: str) -> None:
    warnings.warn(
        f"{name} is deprecated; write retry_policy(wait={wait}, stop=stop_after_attempt(n)) instead.",
        DeprecationWarning,
        stacklevel=3,
    )
