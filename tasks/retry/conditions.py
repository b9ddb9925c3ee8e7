"""Which failures a step retries: conditions, combined with `|` and `&`.

They decide as tenacity's do, except that `match=` searches the whole message and not only its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import tenacity
from tenacity.retry import retry_base

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]

_RETRYING = tenacity.Retrying()


def failed_call(
    failures: int = 1, elapsed_seconds: float = 0.0, upcoming_sleep: float = 0.0, error: BaseException | None = None
) -> tenacity.RetryCallState:
    """A failure in the form in which tenacity's waits, stops and conditions take it.

    Args:
        failures: How many there were, this one included.
        elapsed_seconds: Since the first attempt began.
        upcoming_sleep: Seconds to wait if there is another attempt; only stops look at it.
        error: What was raised; only conditions look at it.
    """
    call = tenacity.RetryCallState(_RETRYING, None, (), {})
    call.attempt_number, call.upcoming_sleep = failures, upcoming_sleep
    call.start_time, call.outcome_timestamp = 0.0, elapsed_seconds
    call.outcome = None if error is None else tenacity.Future.construct(failures, error, True)
    return call


class RetryCondition(Protocol):
    """Says whether a failure is worth another attempt; any function of the error will do."""

    def __call__(self, error: BaseException) -> bool:
        """Whether to retry after `error`."""


class _Condition:
    """A condition of tenacity's with this one's fields, and operators that take plain functions on either side."""

    _rule: ClassVar[Callable[..., retry_base]]

    def __or__(self, other: RetryCondition) -> retry_any:
        return retry_any(self, other)

    def __ror__(self, other: RetryCondition) -> retry_any:
        return retry_any(other, self)

    def __and__(self, other: RetryCondition) -> retry_all:
        return retry_all(self, other)

    def __rand__(self, other: RetryCondition) -> retry_all:
        return retry_all(other, self)

    def __call__(self, error: BaseException) -> bool:
        return bool(self._rule(**vars(self))(failed_call(error=error)))


@dataclass(frozen=True)
class retry_if_exception(_Condition):
    """Retry when `predicate(error)` is true."""

    _rule = tenacity.retry_if_exception
    predicate: Callable[[BaseException], bool]


@dataclass(frozen=True)
class retry_if_exception_type(_Condition):
    """Retry errors of these types."""

    _rule = tenacity.retry_if_exception_type
    exception_types: ExceptionTypes = Exception


@dataclass(frozen=True)
class retry_if_not_exception_type(_Condition):
    """Retry errors of any other type than these."""

    _rule = tenacity.retry_if_not_exception_type
    exception_types: ExceptionTypes = Exception


class retry_unless_exception_type(retry_if_not_exception_type):
    """Retry until an error of these types comes. Here the same as `retry_if_not_exception_type`."""


@dataclass(frozen=True)
class retry_if_exception_message(_Condition):
    """Retry when the error's text equals `message`, or when the pattern `match` is found in it.

    Raises:
        TypeError: Neither or both were given.
    """

    message: str | None = None
    match: str | re.Pattern[str] | None = None

    def __post_init__(self) -> None:
        if (self.message is None) == (self.match is None):
            raise TypeError(f"{type(self).__name__} takes either 'message' or 'match': exactly one of them.")
        if self.match is not None:
            re.compile(self.match)

    def __call__(self, error: BaseException) -> bool:
        return self._fits(str(error))

    def _fits(self, text: str) -> bool:
        # Not tenacity's: that one looks for `match` at the beginning of the text only.
        return text == self.message if self.match is None else re.search(self.match, text) is not None


class retry_if_not_exception_message(retry_if_exception_message):
    """Retry unless the error's text equals `message`, or the pattern `match` is found in it."""

    def __call__(self, error: BaseException) -> bool:
        return not self._fits(str(error))


@dataclass(frozen=True)
class retry_if_exception_cause_type(_Condition):
    """Retry when an error of these types is among the causes (`raise … from cause`), at any depth."""

    _rule = tenacity.retry_if_exception_cause_type
    exception_types: ExceptionTypes = Exception


class retry_any(_Condition):
    """Retry when one of the conditions holds; also written `a | b`."""

    def __init__(self, *retries: RetryCondition) -> None:
        self.retries = retries

    def __call__(self, error: BaseException) -> bool:
        return any(retry(error) for retry in self.retries)

    def __repr__(self) -> str:
        return f"retry_any({', '.join(map(repr, self.retries))})"


class retry_all(_Condition):
    """Retry when all conditions hold; also written `a & b`."""

    def __init__(self, *retries: RetryCondition) -> None:
        self.retries = retries

    def __call__(self, error: BaseException) -> bool:
        return all(retry(error) for retry in self.retries)

    def __repr__(self) -> str:
        return f"retry_all({', '.join(map(repr, self.retries))})"


@dataclass(frozen=True)
class retry_always(_Condition):
    """Retry every failure."""

    def __call__(self, error: BaseException) -> bool:
        return True


@dataclass(frozen=True)
class retry_never(_Condition):
    """Retry nothing."""

    def __call__(self, error: BaseException) -> bool:
        return False
