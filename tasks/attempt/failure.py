"""A failed attempt as an outcome: what the retry policy says, and what the failure may become."""

from __future__ import annotations

import json
import logging
from typing import Any

from ...orchestration.model.envelope import FAILED, STEP_FAILED, Envelope, ending
from ...orchestration.model.errors import WorkerLost
from ...orchestration.model.work_item import Failed, Outcome, Work
from ...orchestration.store.verbs import Store
from ..events.codec import encode_event
from ..events.exceptions import encode_exception
from ..retry.policy import jitter_seed, next_delay
from ..workflow.registry import Registered
from .step_call import step_failed_event

logger = logging.getLogger("umbel.execution")


async def failed_outcome(work: Work, registered: Registered, error: BaseException, store: Store) -> Failed:
    """What a failed attempt comes to.

    Args:
        work: The work item.
        registered: Its workflow here.
        error: What the step raised.
        store: For reading the members of a fan-in, for a `@catch_error` handler.
    """
    if not isinstance(error, Exception):
        error = RuntimeError(f"the step ended with {error!r}")
    config = registered.steps[work.step]
    failures = work.failures + 1
    elapsed = max(0.0, (work.claimed_at - work.first_attempt_at) / 1000)
    delay: float | None = None
    if config.retry_policy is not None and not isinstance(error, WorkerLost):
        try:
            seed = jitter_seed(work.run_id, work.step, failures)
            delay = next_delay(config.retry_policy, elapsed, failures, error, seed)
        except Exception as broken:
            broken.add_note(f"raised by the retry policy of step {work.step!r}, asked about {error!r}")
            error = broken
    encoded = encode_exception(error)
    log = logger.info if delay is not None else logger.warning
    log(
        "step %s of run %s failed on attempt %d: %r%s",
        work.step,
        work.run_id,
        work.attempt,
        error,
        "" if delay is None else f"; next attempt in {delay:g} s",
        exc_info=error if delay is None else None,
        extra={"action": "step_failed", "run_id": work.run_id, "step": work.step, "attempt": work.attempt},
    )
    return Failed(
        error=json.dumps(encoded).encode(),
        retry_delay_seconds=delay,
        failed_event=await _failed_event(work, registered, error, elapsed, store),
        ending=ending(FAILED, step_name=work.step, exception=encoded, attempts=failures, elapsed_seconds=elapsed),
    )


async def _failed_event(work: Work, registered: Registered, error: Exception, elapsed: float, store: Store) -> Envelope:
    if not registered.plan.handlers:
        return Envelope(STEP_FAILED, (), b"{}")
    return encode_event(await step_failed_event(work, registered, error, elapsed, store), store.settings)


def journal_entry(outcome: Outcome) -> dict[str, Any]:
    """The journal's summary of an outcome."""
    entry: dict[str, Any] = {"out": type(outcome).__name__.lower()}
    if isinstance(outcome, Failed):
        entry["error"] = failure_text(outcome)
        if outcome.retry_delay_seconds is not None:
            entry["delay"] = outcome.retry_delay_seconds
    elif (event := getattr(outcome, "event", None)) is not None:
        entry["event"] = event.type
    return entry


def failure_text(failed: Failed) -> str:
    """Class and message of a failure, cut where they get long."""
    encoded = json.loads(failed.error)
    return f"{encoded['exception_type']}: {encoded['exception_message']}"[:500]


def log_cancelled(work: Work, reason: str) -> None:
    """Log that an attempt was cancelled, which is no failure."""
    about = {"action": "step_cancelled", "run_id": work.run_id, "step": work.step}
    logger.info("step %s of run %s was cancelled: %s", work.step, work.run_id, reason, extra=about)
