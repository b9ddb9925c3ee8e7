"""Attempts whose outcome cannot be recorded although Redis answers: they count as losses, and too many fail the run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ...orchestration.connection.stopping import is_stopped
from ...orchestration.engine.protocol import Engine
from ...orchestration.model.envelope import FAILED, ending
from ...orchestration.model.errors import WorkflowRuntimeError
from ...orchestration.model.work_item import Work
from ..events.exceptions import encode_exception, shown
from ..events.tracebacks import step_traceback
from .failure import log_error
from .running import AttemptFailed, forget_cancellations

T = TypeVar("T")


async def settle_unrecorded(engine: Engine, work: Work, error: BaseException) -> AttemptFailed:
    """Count an attempt whose outcome could not be recorded as lost, or fail its run after too many losses.

    The cause may be temporary, so the step is executed again, as after the death of its process. But no process has
    died, so the work's suspicion does not rise. After `max_losses` losses the run fails with the error.
    *Promise:* an outcome that was recorded after all stands.

    Args:
        engine: The deployment's engine.
        work: The attempt.
        error: What was raised instead of a reply.

    Returns:
        The failure, for Celery.
    """
    problem = WorkflowRuntimeError(
        f"What step {work.step!r} of run {work.run_id!r} came to on attempt {work.attempt} could not be recorded: "
        f"{shown(error)}"
    )
    about = {"action": "step_unrecorded", "run_id": work.run_id, "step": work.step, "attempt": work.attempt}
    log_error(str(problem), error, about)
    held = work.held
    [(run_id, applied)] = await engine.leases.hand_back(work.owner, [held], charge=True, suspicion=work.suspicion)
    if not applied.dispatches:  # it was recorded, or another process has it
        return AttemptFailed(str(problem))
    if work.losses + 1 < engine.store.settings.max_losses:
        await engine.dispatch(run_id, applied.dispatches)
        return AttemptFailed(str(problem), 0.0)
    problem.__cause__ = error
    elapsed = max(0.0, (work.claimed_at - work.first_attempt_at) / 1000)
    end = ending(
        FAILED,
        step_name=work.step,
        exception=encode_exception(problem) | {"exception_traceback": step_traceback(problem)},
        attempts=work.attempt,
        elapsed_seconds=elapsed,
    )
    await engine.finish(run_id, "failed", end)
    return AttemptFailed(str(problem))


async def undisturbed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine in a task of its own, even if something the step left behind cancels the current task.

    A cancel scope that a step entered and never left does that at every turn of the loop.

    Raises:
        asyncio.CancelledError: The process stops the current task.
        Exception: What the coroutine raised.
    """
    driver = asyncio.current_task()
    assert driver is not None
    task = asyncio.ensure_future(coroutine)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if is_stopped(driver):
                raise
    forget_cancellations()
    return task.result()
