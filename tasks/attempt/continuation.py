"""Local continuation: a worker continues with what its commit made ready, in the same pool slot, without the broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ...orchestration.model.plan import Plan, StepPlan
from ...orchestration.model.work_item import Work
from ..workflow.registry import Registered
from .running import AttemptFailed

#: How soon a worker notices that it may no longer continue with a step.
_ASK_AGAIN_SECONDS = 0.5


class Reporter(Protocol):
    """Reports to monitors the work for which no message was sent."""

    def began(self, work: Work, plan: Plan) -> None:
        """An attempt begins."""

    def ended(self, work: Work, plan: Plan, text: str, failed: AttemptFailed | None, seconds: float) -> None:
        """An attempt has ended."""


class Continuation:
    """Which steps a worker may continue with, and where it reports them."""

    def __init__(self, takes: Callable[[Plan, StepPlan], bool], reporter: Reporter) -> None:
        """Args:
        takes: Whether this worker may execute a step without a message from its queue.
        reporter: Reports the continued work to monitors.
        """
        self.reporter = reporter
        self._takes = takes
        self._not_steps: dict[str, tuple[float, tuple[str, ...]]] = {}  # plan digest -> when asked, steps

    def not_steps(self, plan: Plan, registered: Registered | None) -> tuple[str, ...]:
        """The steps of a plan that this worker cannot or may not execute without a message from its queue.

        Refreshed periodically: rate limits and consumed queues change while a worker runs.
        """
        asked_at, not_steps = self._not_steps.get(plan.digest, (0.0, ()))
        now = time.monotonic()
        if now - asked_at > _ASK_AGAIN_SECONDS:
            known = registered.steps if registered is not None else {}
            not_steps = tuple(step.name for step in plan.steps if step.name not in known or not self._takes(plan, step))
            self._not_steps[plan.digest] = now, not_steps
        return not_steps
