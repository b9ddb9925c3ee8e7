"""`@step(retries=3, backoff=2.0)` as a retry policy."""

from __future__ import annotations

from ...orchestration.model.durations import LARGEST_COUNT, is_count, is_duration
from ...orchestration.model.errors import WorkflowValidationError
from ..retry.policy import RetryPolicy, retry_policy
from ..retry.timing import stop_after_attempt, wait_exponential


def policy_of_retries(
    where: str, given: RetryPolicy | None, retries: int | None, backoff: float | None
) -> RetryPolicy | None:
    """The retry policy from the decorator's arguments: `given`, or one made from `retries` and `backoff`.

    Raises:
        WorkflowValidationError: Both are given, or a value is invalid; the message names the step.
    """
    if retries is None:
        if backoff is not None:
            raise WorkflowValidationError(f"Step {where!r} is given backoff without retries. Add retries=3.")
        return given
    if given is not None:
        raise WorkflowValidationError(
            f"Step {where!r} is given both retries and a retry_policy. Give only one of them."
        )
    if not is_count(retries, least=0):
        raise WorkflowValidationError(
            f"retries must be an integer of at least 0, got {retries!r} for step {where!r}; at most {LARGEST_COUNT:,}."
        )
    growth = 2.0 if backoff is None else backoff
    if not is_duration(growth) or growth < 1:
        raise WorkflowValidationError(
            f"backoff must be a number of at least 1, the factor between delays; got {backoff!r} for step {where!r}."
        )
    return retry_policy(wait=wait_exponential(exp_base=growth), stop=stop_after_attempt(retries + 1))
