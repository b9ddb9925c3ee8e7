"""Logging in a step: run, step and attempt as fields of each record, and the lines that are kept with the run."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from ...orchestration.store.verbs import Store
from ..logs.gathered import text_of
from ..logs.writing import StepLogs
from .ctx import Context, current_context
from .step_context import StepContext

#: Prefix of umbel's own loggers, whose records do not belong to the step.
_OURS = "umbel."
#: Filters of this logger decide what is kept, and may change records.
_KEPT = logging.getLogger("umbel.step_logs")


def step_fields() -> dict[str, str | int]:
    """`run_id`, `step` and `attempt` of the step that this code belongs to; empty outside of steps.

    They come from a context variable, so tasks created by the step and code in `asyncio.to_thread` see them too, but
    threads that the step starts itself do not. For structlog:

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
    already has such a field keeps it. Add it to a handler: a logger's filters do not see what its descendants log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; nothing is filtered out."""
        fields = {"run_id": "", "step": "", "attempt": ""} | step_fields()
        for name, value in fields.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def kept_step_logs(side: Store) -> StepLogs | None:
    """Where the logs of steps in this process are kept; None if they are not kept.

    Records are captured when they are created, so the levels of loggers affect what is kept and handlers do not.
    Filters of the logger `umbel.step_logs` may reject or change records.

    Args:
        side: Writes while steps run.
    """
    if side.settings.step_logs == "off":
        return None
    _see_records()
    return StepLogs(side)


@cache
def _see_records() -> None:
    make = logging.getLogRecordFactory()

    def make_and_keep(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        context = current_context.get()
        if context is not None and record.name and not record.name.startswith(_OURS):
            _keep(context._face, record)
        return record

    logging.setLogRecordFactory(make_and_keep)


def _keep(face: object, record: logging.LogRecord) -> None:
    if not isinstance(face, StepContext) or face.logs is None or record.levelno < face.logs.level:
        return
    kept = _KEPT.filter(record)
    if kept:
        record = kept if isinstance(kept, logging.LogRecord) else record
        at = int(record.created * 1000)
        face.log = face.logs.add(face.log, face.work, at, record.levelname, record.name, text_of(record))


def keep_printed(context: Context[Any], line: str) -> None:
    """Keep a line that a step has printed, with level INFO."""
    face = context._face
    if line.strip() and isinstance(face, StepContext) and face.logs is not None and face.logs.level <= logging.INFO:
        record = logging.LogRecord("print", logging.INFO, "", 0, line, None, None)
        _keep(face, record)
