"""Rows 39 and 40: whether and when a failed step is retried."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from umbel import Context, Workflow, step
from umbel.events import StartEvent, StopEvent
from umbel.retry_policy import (
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    RetryPolicy,
    retry_all,
    retry_always,
    retry_any,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_never,
    retry_policy,
    retry_unless_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
    wait_chain,
    wait_combine,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_full_jitter,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)


def delays(policy: RetryPolicy, failures: int = 5) -> list[float | None]:
    """Return the policy's answers to failures 1, 2, …"""
    return [policy.next(0.0, number, ValueError("x"), seed=1) for number in range(1, failures + 1)]


# -- 39: no policy, the default policy, the first delay ----------------------------------------------------------------


@pytest.mark.row(39)
async def test_a_step_without_a_policy_is_tried_once() -> None:
    attempts: list[int] = []

    class Once(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            attempts.append(ctx.retry_info().retry_number)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="^boom$"):
        await Once().run()
    assert attempts == [0]


@pytest.mark.row(39)
def test_the_default_policy_is_three_attempts_five_seconds_apart() -> None:
    assert delays(retry_policy()) == [5, 5, None, None, None]


@pytest.mark.row(39)
def test_the_first_delay_has_index_zero() -> None:
    chain = wait_chain(wait_fixed(1), wait_fixed(2), wait_fixed(5))

    assert delays(retry_policy(wait=chain, stop=stop_after_attempt(5))) == [1, 2, 5, 5, None]


@pytest.mark.row(39)
async def test_a_custom_policy_is_asked_about_every_failure() -> None:
    asked: list[tuple[int, str]] = []

    class Own:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            assert elapsed_time >= 0
            asked.append((attempts, str(error)))
            return 0 if attempts < 3 else None

    class Failing(Workflow):
        @step(retry_policy=Own())  # type: ignore[arg-type]
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise ValueError(f"number {ctx.retry_info().retry_number}")

    with pytest.raises(ValueError, match="^number 2$"):
        await Failing().run()
    assert asked == [(1, "number 0"), (2, "number 1"), (3, "number 2")]


@pytest.mark.row(39)
def test_retry_is_asked_first_then_wait_then_stop() -> None:
    order: list[str] = []

    def ask_retry(error: BaseException) -> bool:
        order.append("retry")
        return True

    def ask_wait(attempts: int, *, seed: int | None = None) -> float:
        order.append(f"wait {attempts}")
        return 3

    def ask_stop(attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0) -> bool:
        order.append(f"stop {attempts} {elapsed_time} {upcoming_sleep}")
        return False

    assert retry_policy(ask_retry, ask_wait, ask_stop).next(1.5, 1, ValueError("x")) == 3
    assert order == ["retry", "wait 0", "stop 1 1.5 3"]


# -- 40: every class and operator --------------------------------------------------------------------------------------

# The answers of tenacity for its attempt numbers 1, 2, 3, 4.
WAITS: list[tuple[Any, list[float]]] = [
    (wait_fixed(3), [3, 3, 3, 3]),
    (wait_fixed(timedelta(minutes=1)), [60, 60, 60, 60]),
    (wait_none(), [0, 0, 0, 0]),
    (wait_incrementing(), [0, 100, 200, 300]),
    (wait_incrementing(start=1, increment=2, max=4), [1, 3, 4, 4]),
    (wait_exponential(), [1, 2, 4, 8]),
    (wait_exponential(multiplier=2, exp_base=3, max=20, min=5), [5, 6, 18, 20]),
    (wait_exponential_jitter(jitter=0), [1, 2, 4, 8]),
    (wait_exponential_jitter(initial=3, exp_base=3, max=20, jitter=0), [3, 9, 20, 20]),
    (wait_random(2, 2), [2, 2, 2, 2]),
    (wait_random_exponential(multiplier=1, min=60), [60, 60, 60, 60]),
    (wait_chain(wait_fixed(1), wait_fixed(2)), [1, 2, 2, 2]),
    (wait_combine(wait_fixed(1), wait_incrementing(0, 1)), [1, 2, 3, 4]),
    (wait_fixed(1) + wait_incrementing(0, 1), [1, 2, 3, 4]),
    (sum([wait_fixed(1), wait_fixed(2), wait_fixed(4)]), [7, 7, 7, 7]),
]


@pytest.mark.parametrize(("wait", "expected"), WAITS, ids=repr)
@pytest.mark.row(40)
def test_waits(wait: Any, expected: list[float]) -> None:
    assert delays(retry_policy(wait=wait, stop=stop_never()), 4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wait", "low", "high"),
    [
        (wait_random(), 0, 1),
        (wait_random(3, timedelta(seconds=4)), 3, 4),
        (wait_exponential_jitter(initial=2), 2, 3),
        (wait_random_exponential(multiplier=8), 0, 8),
        (wait_full_jitter(multiplier=8), 0, 8),
    ],
    ids=repr,
)
@pytest.mark.row(40)
def test_random_waits_stay_in_their_range(wait: Any, low: float, high: float) -> None:
    drawn = {wait(0, seed=seed) for seed in range(20)}

    assert len(drawn) == 20
    assert low <= min(drawn) <= max(drawn) <= high


#: (attempts, elapsed, upcoming sleep), and whether each stop gives up there.
MOMENTS = [(1, 0, 0), (3, 0, 0), (1, 10, 0), (1, 8, 2)]
STOPS: list[tuple[Any, str]] = [
    (stop_after_attempt(3), ".x.."),
    (stop_after_delay(10), "..x."),
    (stop_after_delay(timedelta(seconds=10)), "..x."),
    (stop_before_delay(10), "..xx"),
    (stop_never(), "...."),
    (stop_any(stop_after_attempt(3), stop_after_delay(10)), ".xx."),
    (stop_all(stop_after_attempt(1), stop_after_delay(10)), "..x."),
    (stop_after_attempt(3) | stop_before_delay(10), ".xxx"),
    (stop_after_attempt(1) & stop_before_delay(10), "..xx"),
]


@pytest.mark.parametrize(("stop", "expected"), STOPS, ids=repr)
@pytest.mark.row(40)
def test_stops(stop: Any, expected: str) -> None:
    answers = [stop(attempts, elapsed, upcoming_sleep=sleep) for attempts, elapsed, sleep in MOMENTS]

    assert "".join(".x"[answer] for answer in answers) == expected


def caused() -> Exception:
    error = ValueError("caused")
    error.__cause__ = OSError("the cause")
    return error


ERRORS = [ValueError("boom"), ConnectionError("boom"), KeyError("no"), caused()]
CONDITIONS: list[tuple[Any, str]] = [
    (retry_if_exception(lambda error: isinstance(error, LookupError)), "..x."),
    (retry_if_exception_type(), "xxxx"),
    (retry_if_exception_type((OSError, KeyError)), ".xx."),
    (retry_if_not_exception_type(ValueError), ".xx."),
    (retry_unless_exception_type(ValueError), ".xx."),
    (retry_if_exception_message(message="boom"), "xx.."),
    (retry_if_exception_message(match="^c"), "...x"),
    (retry_if_not_exception_message(message="boom"), "..xx"),
    (retry_if_exception_cause_type(OSError), "...x"),
    (retry_any(retry_if_exception_type(KeyError), retry_if_exception_message(message="boom")), "xxx."),
    (retry_all(retry_if_exception_type(OSError), retry_if_exception_message(message="boom")), ".x.."),
    (retry_if_exception_type(KeyError) | retry_if_exception_type(OSError), ".xx."),
    (retry_if_exception_type(OSError) & retry_if_exception_message(message="boom"), ".x.."),
    (retry_always(), "xxxx"),
    (retry_never(), "...."),
]


@pytest.mark.parametrize(("retry", "expected"), CONDITIONS)
@pytest.mark.row(40)
def test_conditions(retry: Any, expected: str) -> None:
    policy = retry_policy(retry=retry, wait=wait_none(), stop=stop_never())

    answers = [policy.next(0.0, 1, error) is not None for error in ERRORS]

    assert "".join(".x"[answer] for answer in answers) == expected


@pytest.mark.row(40)
def test_a_chain_needs_a_member() -> None:
    with pytest.raises(ValueError, match="wait_chain"):
        wait_chain()


@pytest.mark.row(40)
def test_the_deprecated_factories_work_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match="ConstantDelayRetryPolicy"):
        constant = ConstantDelayRetryPolicy()
    with pytest.warns(DeprecationWarning, match="ExponentialBackoffRetryPolicy"):
        exponential = ExponentialBackoffRetryPolicy(jitter=False)

    assert delays(constant) == [5, 5, None, None, None]
    assert delays(exponential) == [1, 2, 4, 8, None]
