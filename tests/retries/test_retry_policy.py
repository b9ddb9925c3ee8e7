"""Retry policies: the formulas of tenacity, reproducible randomness, and policy objects of any shape."""

from __future__ import annotations

import hashlib
import importlib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.orchestration.model.errors import WorkflowRuntimeError
from umbel.retry_policy import (
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    RetryCondition,
    RetryInfo,
    RetryPolicy,
    StopCondition,
    WaitStrategy,
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
from umbel.tasks.retry.policy import jitter_seed, next_delay

seeds = st.integers(0, 2**32 - 1)
failures = st.integers(0, 40)


# The numbers in this table, and in the two below it, are the results of tenacity 9.2 for attempts 1, 2, 3, … They are
# literal, so that a tenacity release with other results is noticed.
@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (wait_fixed(3), [3, 3, 3, 3, 3, 3, 3, 3]),
        (wait_fixed(timedelta(minutes=1)), [60, 60, 60, 60, 60, 60, 60, 60]),
        (wait_none(), [0, 0, 0, 0, 0, 0, 0, 0]),
        (wait_incrementing(), [0, 100, 200, 300, 400, 500, 600, 700]),
        (wait_incrementing(start=500, increment=-100), [500, 400, 300, 200, 100, 0, 0, 0]),
        (wait_incrementing(1, 2, 6), [1, 3, 5, 6, 6, 6, 6, 6]),
        (wait_incrementing(timedelta(seconds=1), timedelta(seconds=2), 6), [1, 3, 5, 6, 6, 6, 6, 6]),
        (wait_exponential(max=1000), [1, 2, 4, 8, 16, 32, 64, 128]),
        (wait_exponential(multiplier=2, exp_base=3, max=100, min=5), [5, 6, 18, 54, 100, 100, 100, 100]),
        (wait_exponential(min=4, max=10), [4, 4, 4, 8, 10, 10, 10, 10]),
        (wait_exponential(multiplier=0.5), [0.5, 1, 2, 4, 8, 16, 32, 60]),
        (wait_exponential(min=70, max=1000), [70, 70, 70, 70, 70, 70, 70, 128]),
        (wait_exponential_jitter(jitter=0, max=1000), [1, 2, 4, 8, 16, 32, 64, 128]),
        (wait_exponential_jitter(initial=3, exp_base=3, max=50, jitter=0), [3, 9, 27, 50, 50, 50, 50, 50]),
        (wait_random(2, 2), [2, 2, 2, 2, 2, 2, 2, 2]),
        (wait_chain(wait_fixed(1), wait_fixed(2), wait_fixed(5)), [1, 2, 5, 5, 5, 5, 5, 5]),
        (wait_fixed(3) + wait_incrementing(0, 1), [3, 4, 5, 6, 7, 8, 9, 10]),
        (sum([wait_fixed(1), wait_fixed(2), wait_incrementing(1, 1)]), [4, 5, 6, 7, 8, 9, 10, 11]),
        (wait_combine(wait_fixed(1), wait_fixed(2)), [3, 3, 3, 3, 3, 3, 3, 3]),
    ],
    ids=repr,
)
def test_waits_answer_like_tenacity(wait: WaitStrategy, delays: list[float]) -> None:
    assert [wait(earlier_failures) for earlier_failures in range(8)] == pytest.approx(delays)


@pytest.mark.parametrize(
    ("wait", "ranges"),
    [
        (wait_random(), [(0, 1)] * 6),
        (wait_random(1, timedelta(seconds=4)), [(1, 4)] * 6),
        (wait_random_exponential(multiplier=0.5), [(0, 0.5), (0, 1), (0, 2), (0, 4), (0, 8), (0, 16)]),
        (wait_random_exponential(min=3, max=10), [(3, 3), (3, 3), (3, 4), (3, 8), (3, 10), (3, 10)]),
        (wait_exponential_jitter(initial=2, max=20, jitter=3), [(2, 5), (4, 7), (8, 11), (16, 19), (20, 20)]),
        (wait_exponential_jitter(), [(1, 2), (2, 3), (4, 5), (8, 9)]),
    ],
    ids=repr,
)
def test_random_waits_fill_the_range_of_tenacity(wait: WaitStrategy, ranges: list[tuple[float, float]]) -> None:
    for earlier_failures, (low, high) in enumerate(ranges):
        drawn = [wait(earlier_failures, seed=seed) for seed in range(300)]

        assert low <= min(drawn) <= low + (high - low) * 0.05
        assert high - (high - low) * 0.05 <= max(drawn) <= high


@given(failures, seeds)
def test_the_same_seed_always_gives_the_same_wait(earlier_failures: int, seed: int) -> None:
    wait = wait_random(0, 5) + wait_exponential_jitter() + wait_chain(wait_random_exponential(), wait_random())

    assert wait(earlier_failures, seed=seed) == wait(earlier_failures, seed=seed)


def test_waits_without_a_seed_differ() -> None:
    assert len({wait_random()(0) for _ in range(20)}) > 1


def test_two_random_waits_in_a_sum_do_not_draw_the_same_number() -> None:
    both, one = wait_random(0, 1) + wait_random(0, 1), wait_random(0, 1)

    assert any(abs(both(0, seed=seed) - 2 * one(0, seed=seed)) > 0.1 for seed in range(20))


@given(st.integers(0, 10**6))
def test_exponential_waits_do_not_overflow(earlier_failures: int) -> None:
    assert 0 <= wait_exponential()(earlier_failures) <= 60
    assert 0 <= wait_exponential(multiplier=0)(earlier_failures) <= 60
    assert 0 <= wait_exponential_jitter()(earlier_failures) <= 60
    assert 0 <= wait_full_jitter()(earlier_failures, seed=1) <= 60


def test_full_jitter_is_another_name_of_random_exponential() -> None:
    assert wait_full_jitter(multiplier=2, max=9)(3, seed=5) == wait_random_exponential(multiplier=2, max=9)(3, seed=5)


def test_a_chain_without_strategies_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one strategy"):
        wait_chain()


POINTS = [(1, 0, 0), (2, 9.9, 0), (3, 9.9, 0), (3, 10, 0), (2, 10, 5), (2, 5, 5), (2, 5, 4.9), (4, 11, 0)]


@pytest.mark.parametrize(
    ("stop", "answers"),
    [
        (stop_after_attempt(3), "..xx...x"),
        (stop_after_delay(10), "...xx..x"),
        (stop_after_delay(timedelta(seconds=10)), "...xx..x"),
        (stop_before_delay(10), "...xxx.x"),
        (stop_never(), "........"),
        (stop_after_attempt(3) | stop_after_delay(10), "..xxx..x"),
        (stop_any(stop_after_attempt(3), stop_after_delay(10)), "..xxx..x"),
        (stop_after_attempt(3) & stop_after_delay(10), "...x...x"),
        (stop_all(stop_after_attempt(3), stop_after_delay(10)), "...x...x"),
    ],
    ids=repr,
)
def test_stops_answer_like_tenacity(stop: StopCondition, answers: str) -> None:
    given_up = [stop(attempts, elapsed, upcoming_sleep=sleep) for attempts, elapsed, sleep in POINTS]

    assert "".join(".x"[answer] for answer in given_up) == answers


def _caused() -> ValueError:
    error = ValueError("x")
    error.__cause__ = KeyError("y")
    error.__cause__.__cause__ = OSError("z")
    return error


ERRORS = [ValueError("boom"), ValueError("abo"), ConnectionError("boom"), KeyError("boom"), _caused()]


@pytest.mark.parametrize(
    ("retry", "answers"),
    [
        (retry_if_exception_type(), "xxxxx"),
        (retry_if_exception_type(OSError), "..x.."),
        (retry_if_exception_type((ValueError, KeyError)), "xx.xx"),
        (retry_if_not_exception_type(ValueError), "..xx."),
        (retry_unless_exception_type(ValueError), "..xx."),
        (retry_if_exception_message(message="boom"), "x.x.."),
        (retry_if_exception_message(match="^bo+"), "x.x.."),
        (retry_if_not_exception_message(message="boom"), ".x.xx"),
        (retry_if_not_exception_message(match="^bo+"), ".x.xx"),
        (retry_if_exception_cause_type(OSError), "....x"),
        (retry_if_exception_cause_type(ValueError), "....."),
        (retry_always(), "xxxxx"),
        (retry_never(), "....."),
        (retry_if_exception_type(OSError) | retry_if_exception_message(message="boom"), "x.x.."),
        (retry_any(retry_if_exception_type(OSError), retry_if_exception_type(KeyError)), "..xx."),
        (retry_if_exception_type(ValueError) & retry_if_exception_message(message="boom"), "x...."),
        (retry_all(retry_if_exception_type(ValueError), retry_if_exception_type(OSError)), "....."),
        (retry_if_exception(lambda error: len(str(error)) > 4), "...x."),
    ],
)
def test_conditions_answer_like_tenacity(retry: RetryCondition, answers: str) -> None:
    assert "".join(".x"[retry(error)] for error in ERRORS) == answers


def test_a_message_pattern_is_searched_in_the_whole_message() -> None:
    assert retry_if_exception_message(match="bo+")(ValueError("a boom"))
    assert not retry_if_not_exception_message(match="bo+")(ValueError("a boom"))


@pytest.mark.parametrize("arguments", [{}, {"message": "a", "match": "b"}])
@pytest.mark.parametrize("condition", [retry_if_exception_message, retry_if_not_exception_message])
def test_a_message_condition_takes_exactly_one_of_message_and_match(condition: Any, arguments: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="either 'message' or 'match'"):
        condition(**arguments)


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert not retry_if_exception_cause_type(OSError)(first)


def test_plain_functions_combine_with_operators_on_either_side() -> None:
    def is_boom(error: BaseException) -> bool:
        return "boom" in str(error)

    def one_second(attempts: int, *, seed: int | None = None) -> float:
        return 1.0

    def never(attempts: int, elapsed_time: float, *, upcoming_sleep: float = 0.0) -> bool:
        return False

    boom = ValueError("boom")
    assert (is_boom & retry_always())(boom)
    assert (retry_never() | is_boom)(boom)
    assert (is_boom | retry_never())(boom)
    assert not (retry_never() & is_boom)(boom)
    assert (one_second + wait_fixed(2))(0) == (wait_fixed(2) + one_second)(0) == 3
    assert (never | stop_after_attempt(1))(1, 0)
    assert not (never & stop_after_attempt(1))(1, 0)


def _delays(policy: RetryPolicy, error: Exception | None = None, count: int = 6) -> list[float | None]:
    return [next_delay(policy, 0.0, number, error or ValueError("x"), 7) for number in range(1, count)]


def test_the_first_delay_has_index_zero() -> None:
    policy = retry_policy(wait=wait_chain(wait_fixed(1), wait_fixed(2), wait_fixed(5)), stop=stop_after_attempt(5))

    assert _delays(policy) == [1, 2, 5, 5, None]


def test_the_default_policy_tries_three_times_five_seconds_apart() -> None:
    assert _delays(retry_policy()) == [5, 5, None, None, None]


def test_an_error_that_is_not_retried_asks_neither_wait_nor_stop() -> None:
    def unasked(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    policy = retry_policy(retry=retry_if_exception_type(OSError), wait=unasked, stop=unasked)

    assert _delays(policy) == [None] * 5


def test_stop_gets_the_wait_that_would_follow() -> None:
    policy = retry_policy(wait=wait_fixed(4), stop=stop_before_delay(10))

    assert [policy.next(elapsed, 1, ValueError()) for elapsed in (0, 5.9, 6)] == [4, 4, None]


def test_a_composed_policy_is_a_retry_policy() -> None:
    assert isinstance(retry_policy(), RetryPolicy)


class _WithoutSeed:
    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        return 2.0 if attempts < 2 else None


class _WithKeywords:
    def next(self, elapsed_time: float, attempts: int, error: Exception, **options: Any) -> float | None:
        return float(options["seed"])


class _Answering:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> Any:
        return self.answer


def test_a_policy_object_without_a_seed_parameter_works() -> None:
    assert isinstance(_WithoutSeed(), RetryPolicy)
    assert [next_delay(_WithoutSeed(), 0.0, number, ValueError(), 7) for number in (1, 2)] == [2, None]  # type: ignore[arg-type]


def test_a_policy_object_with_any_keywords_gets_the_seed() -> None:
    assert next_delay(_WithKeywords(), 0.0, 1, ValueError(), 7) == 7


def test_a_negative_delay_is_no_delay() -> None:
    assert next_delay(_Answering(-3), 0.0, 1, ValueError(), 7) == 0


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), "5", True, timedelta(seconds=1)])
def test_a_delay_that_is_no_finite_number_is_an_error_that_says_so(answer: Any) -> None:
    with pytest.raises(WorkflowRuntimeError, match=r"for failure 2 .* must return the seconds to wait"):
        next_delay(_Answering(answer), 0.0, 2, ValueError(), 7)


def test_the_jitter_seed_is_made_of_run_step_and_failure() -> None:
    expected = int(hashlib.sha256(b"run-1:charge:2").hexdigest(), 16) & 0xFFFFFFFF

    assert jitter_seed("run-1", "charge", 2) == expected
    assert len({jitter_seed(run, step, n) for run in "ab" for step in "cd" for n in (1, 2)}) == 8


def test_the_deprecated_constant_policy_warns_and_works() -> None:
    with pytest.warns(DeprecationWarning, match="wait_fixed") as caught:
        policy = ConstantDelayRetryPolicy()

    assert _delays(policy) == [5, 5, None, None, None]
    assert caught[0].filename == __file__


def test_the_deprecated_exponential_policy_warns_and_works() -> None:
    with pytest.warns(DeprecationWarning, match="wait_exponential"):
        plain = ExponentialBackoffRetryPolicy(jitter=False)
    with pytest.warns(DeprecationWarning, match="wait_random_exponential"):
        jittered = ExponentialBackoffRetryPolicy(maximum_attempts=3, initial_delay=2, multiplier=3, max_delay=5)

    assert _delays(plain) == [1, 2, 4, 8, None]
    assert [delay is not None and delay <= limit for delay, limit in zip(_delays(jittered), (2, 5), strict=False)] == [
        True,
        True,
    ]
    assert _delays(jittered)[2] is None


def test_retry_info_of_a_first_execution_is_empty() -> None:
    assert RetryInfo() == RetryInfo(0, 0.0, None, None)


def test_the_public_names_are_listed_sorted() -> None:
    public = importlib.import_module("umbel.retry_policy")

    assert public.__all__ == sorted(public.__all__)
    assert all(hasattr(public, name) for name in public.__all__)
