"""Parks work that this worker's code cannot execute but another version of the code can. Parked is not failed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ...orchestration.engine.leases import Leases
from ...orchestration.model.plan import NOT_ROUTING, Plan
from ...orchestration.model.work_item import Work
from ..context.step_context import StepContext
from ..workflow.registry import Registered, Registry
from .running import Ended

logger = logging.getLogger("umbel.execution")


async def park(
    leases: Leases, registry: Registry, work: Work, lacks: str | None = None, why: str | None = None
) -> Ended:
    """Release claimed work until a worker that has its code starts.

    Args:
        leases: Parks the work.
        registry: The workflows of this worker.
        work: The claimed work item.
        lacks: What is missing besides the step, see `Registered.has`.
        why: The same as text, for the log.
    """
    await leases.park(work.run_id, work.work_id, work.workflow, work.step, work, lacks=lacks)
    _log_needs_code(work, registry.find(work.workflow), why, [each.name for each in registry])
    return Ended("needs_code")


async def park_misrouted(
    leases: Leases, registry: Registry, work: Work, plan: Plan, registered: Registered, context: StepContext
) -> Ended:
    """Park work whose step emitted an event that this worker's code routes but the run's plan does not."""
    assert context.misrouted is not None
    lacks = plan.lacked_by(registered.events.knows, context.misrouted)
    why = f"it emits {context.misrouted.type!r}, which no step accepts in the code that the run started with"
    if not lacks.startswith(NOT_ROUTING):
        why += f" (there is {lacks!r}, which is not loaded here: was it renamed?)"
    return await park(leases, registry, work, lacks, why)


def _log_needs_code(work: Work, registered: Registered | None, why: str | None, loaded: Iterable[str]) -> None:
    missing = "the workflow has no such step here" if registered else "the workflow is not loaded here"
    logger.error(
        "This worker cannot run step %r of workflow %r: %s. The work is parked until a worker that has the "
        "code starts. Loaded here: %s.",
        work.step,
        work.workflow,
        why or missing,
        ", ".join(loaded) or "nothing",
        extra={"action": "needs_code", "run_id": work.run_id, "step": work.step},
    )
