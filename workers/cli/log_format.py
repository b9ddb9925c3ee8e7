"""Log records as JSON, one object per line, for collectors that filter by field instead of by text."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any, Literal

from celery import signals
from celery.apps import worker as celery_worker

LogFormat = Literal["text", "json"]

#: What a record has without anybody's doing, and what is written under another name.
_STOCK = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """`{"at", "level", "logger", "message", "pid", …}`, then what the record was given as `extra`, then `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. Whatever JSON cannot carry is written as its text; this never fails because of a value."""
        told: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        told |= {name: value for name, value in vars(record).items() if name not in _STOCK and name not in told}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = record.stack_info
        return json.dumps(told, default=repr, ensure_ascii=False)


def log_as_json() -> None:
    """Make every handler that Celery sets up from now on in this process, and in its pool's children, write JSON."""

    def use_json(logger: logging.Logger, **_: Any) -> None:
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())

    def say(text: str, file: Any = None) -> None:  # from signal handlers: nothing that takes a lock
        os.write(2, json_line(text.strip(), "celery.worker").encode() + b"\n")

    # Celery sets up the loggers of workers, and those of tasks, which it gives handlers of their own.
    signals.after_setup_logger.connect(use_json, weak=False)
    signals.after_setup_task_logger.connect(use_json, weak=False)
    celery_worker.safe_say = say  # its words at a shutdown, which go past all loggers


def json_line(text: str, logger: str = "umbel.cli") -> str:
    """What a command says, as a record of the level INFO."""
    return JsonFormatter().format(logging.LogRecord(logger, logging.INFO, "", 0, text, None, None))
