"""Run, step and attempt in all log lines that are written in a step."""

from __future__ import annotations

import logging

from .ctx import current_context
from .step_context import StepContext


def step_fields() -> dict[str, str | int]:
    """`run_id`, `step` and `attempt` of the step that this code belongs to; empty outside of steps.

    They are context variables: also tasks that the step has created and code in `asyncio.to_thread` have them, threads
    that it has started itself do not. For structlog:

        def add_step(logger, method, event):
            return umbel.step_fields() | event
    """
    context = current_context.get()
    if context is None or not isinstance(context._face, StepContext):
        return {}
    work = context._face.work
    return {"run_id": work.run_id, "step": work.step, "attempt": work.attempt}


class StepFilter(logging.Filter):
    """Gives each log record `run_id`, `step` and `attempt`, for a handler's format; empty outside of steps.

    `handler.addFilter(umbel.StepFilter())` with the format `%(run_id)s %(step)s %(attempt)s %(message)s`. A record that
    has such a field keeps it. It belongs on a handler: filters of a logger do not see what its descendants log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; nothing is filtered out."""
        fields = {"run_id": "", "step": "", "attempt": ""} | step_fields()
        for name, value in fields.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
