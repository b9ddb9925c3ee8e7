"""Turns a failed attempt into an outcome: asks the retry policy and prepares the event for a `@catch_error` handler."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from contextvars import Context, copy_context
from typing import Any

from ...orchestration.model.decide import recovering
from ...orchestration.model.envelope import FAILED, Envelope, ending
from ...orchestration.model.errors import StepTimeoutError, StoreUnavailable, WorkerLost
from ...orchestration.model.work_item import Awaiting, Failed, FannedOut, Grouped, Outcome, Returned, Suspended, Work
from ...orchestration.store.replies import Refusal
from ...orchestration.store.verbs import Store
from ..context.step_context import StepContext
from ..events.codec import encode_event
from ..events.exceptions import encode_exception, shown
from ..events.tracebacks import step_traceback
from ..retry.policy import jitter_seed, next_delay
from ..workflow.registry import Registered
from .running import StepExit
from .step_call import step_failed_event

logger = logging.getLogger("umbel.execution")


def check_may_begin(work: Work, max_losses: int, timeout_seconds: float | None) -> None:
    """Refuse to execute work that has killed too many processes or has exceeded its time limit.

    Args:
        work: The work item.
        max_losses: Number of charged losses at which it is refused.
        timeout_seconds: The step's own limit.

    Raises:
        WorkerLost: The work is assumed to kill processes.
        StepTimeoutError: The last attempt exceeded the limit without responding, and the work was taken from it.
    """
    if work.charged_losses >= max_losses:
        raise WorkerLost(
            f"Step {work.step!r} of run {work.run_id!r} was executing when its process died, {work.losses} "
            f"times in all. It is not tried again: find out what kills the process, then `umbel retry`."
        )
    if work.late:
        raise StepTimeoutError(
            f"Step {work.step!r} of run {work.run_id!r} did not end within its timeout of {timeout_seconds} s and "
            "did not respond."
        )


async def failed_outcome(
    work: Work, registered: Registered, error: BaseException, store: Store, context: Context | None, trace: str = ""
) -> Failed:
    """The outcome of a failed attempt.

    Args:
        work: The work item.
        registered: Its workflow here.
        error: What the step raised.
        store: For reading the members of a fan-in, for a `@catch_error` handler.
        context: The step's context variables. The failure is logged in them, so that an error tracker finds its tags.
        trace: The span in which it failed, if any.
    """
    error = as_failure(work, error)
    config = registered.steps[work.step]
    failures = work.failures + 1
    elapsed = max(0.0, (work.claimed_at - work.first_attempt_at) / 1000)
    delay: float | None = None
    note: str | None = None
    if config.retry_policy is not None and not isinstance(error, WorkerLost):
        try:
            seed = jitter_seed(work.run_id, work.step, failures)
            delay = next_delay(config.retry_policy, elapsed, failures, error, seed)
        except Exception as broken:
            note = f"raised by the retry policy of step {work.step!r}, asked about {shown(error)}"
            error = broken
    failed_event: Envelope | None = None
    if delay is None and registered.plan.handlers:
        try:
            failed = await step_failed_event(work, registered, error, elapsed, store)
            failed_event = encode_event(failed, store.settings).marked(trace)
        except StoreUnavailable:
            raise
        except Exception as refused:
            note = f"no @catch_error step could be given this failure: {shown(refused)}"
    encoded = encode_exception(error, note=note)
    traceback = step_traceback(error)
    about = {"action": "step_failed", "run_id": work.run_id, "step": work.step, "attempt": work.attempt}
    text = f"step {work.step} of run {work.run_id} failed on attempt {work.attempt}: {shown(error)}"
    if delay is not None:
        logger.info("%s; next attempt in %g s", text, delay, extra=about)
    elif failed_event is not None and (handler := recovering(registered.plan, work)) is not None:
        logger.warning("%s; handled by %s", text, handler.name, extra=about | {"action": "step_recovered"})
    else:
        (context or copy_context()).run(log_error, text, error, about, traceback)
    exception = encoded | {"exception_traceback": traceback}
    return Failed(
        error=json.dumps(encoded).encode(),
        retry_delay_seconds=delay,
        failed_event=failed_event,
        ending=ending(FAILED, step_name=work.step, exception=exception, attempts=failures, elapsed_seconds=elapsed),
        traceback=traceback,
    )


def as_failure(work: Work, error: BaseException) -> Exception:
    """The exception to record as the step's failure: what it raised, or a `StepExit` if it was cancelled."""
    if isinstance(error, Exception):
        return error
    exit = StepExit(f"step {work.step!r} ended with {shown(error)}: it, or what it awaited, was cancelled")
    exit.__cause__ = error
    return exit


def log_error(text: str, error: BaseException, about: dict[str, Any], trace: str = "") -> None:
    """Log an error of user code with its traceback, or without it if it cannot be written.

    This is the only ERROR record about the failure, so error trackers create one event, with the exception itself.

    Args:
        text: What happened.
        error: The error.
        about: Fields of the record.
        trace: The traceback that text handlers write; by default the complete one, with umbel's own frames.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return
    raised = type(error), error, error.__traceback__
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, "%s", (text,), raised, log_error.__name__, about
    )
    record.exc_text = trace or None
    try:
        logger.handle(record)
    except BaseException as unwritten:  # a handler may read attributes that raise, such as the error's notes
        logger.error("%s (no traceback: %s)", text, shown(unwritten), extra=about)


def clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of all frames in the tracebacks of an error and its causes: they may hold the error."""
    found: list[BaseException | None] = [error]
    for each in found:
        if each is None:
            continue
        traceback.clear_frames(each.__traceback__)
        others = each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())
        found += [other for other in others if all(other is not known for known in found)]


#: The words for outcomes in logs and monitors.
OUTCOME_WORDS: dict[type[Outcome], str] = {
    Returned: "returned",
    FannedOut: "fanned out",
    Suspended: "waits for an event",
    Awaiting: "waits for child runs",
    Grouped: "grouped what was gathered",
}


#: If more keys were read, the journal records that all were.
_MOST_READS = 100


def journal_entry(outcome: Outcome, context: StepContext) -> dict[str, Any]:
    """The journal's summary of an outcome. `rd` says what the attempt read of the state: 0 nothing, 1 all, or the keys.

    `re` says that the outcome was recorded by another run and the step was not executed.
    """
    reads = context.reads
    read: Any = 1 if reads is None or len(reads) > _MOST_READS else sorted(reads) if reads else 0
    entry: dict[str, Any] = {"out": type(outcome).__name__.lower(), "rd": read}
    if context.is_recorded:
        entry["re"] = 1
    if isinstance(outcome, Failed):
        entry["error"] = failure_text(outcome)
        if outcome.traceback:
            entry["tb"] = outcome.traceback
        if outcome.retry_delay_seconds is not None:
            entry["delay"] = outcome.retry_delay_seconds
    elif (event := getattr(outcome, "event", None)) is not None:
        entry["event"] = event.type
    return entry


def failure_text(failed: Failed) -> str:
    """Class and message of a failure, truncated if long."""
    return error_text(json.loads(failed.error))


def error_text(encoded: Mapping[str, Any]) -> str:
    """Class and message of a stored exception, truncated if long."""
    return f"{encoded['exception_type']}: {encoded['exception_message']}"[:500]


def log_cancelled(work: Work, reason: str) -> None:
    """Log that an attempt was cancelled, which is not a failure."""
    about = {"action": "step_cancelled", "run_id": work.run_id, "step": work.step}
    logger.info("step %s of run %s was cancelled: %s", work.step, work.run_id, reason, extra=about)


def log_refused(work: Work, refusal: Refusal) -> None:
    """Log that an outcome was not recorded because the attempt is obsolete."""
    about = {"action": "commit_refused", "run_id": work.run_id, "step": work.step}
    logger.info("the outcome of step %s of run %s was refused: %s", work.step, work.run_id, refusal, extra=about)
