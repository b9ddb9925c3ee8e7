"""`--log-format`: logs as text, or as JSON with one object per line, for collectors that filter by field."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import click
from celery import signals
from celery.apps import worker as celery_worker

from ....orchestration.model.errors import ConfigurationError
from ....tasks.context.step_fields import step_fields
from ..output import note

LogFormat = Literal["text", "json"]
F = TypeVar("F", bound=Callable[..., object])

#: Interval at which `Seldom` lets records of one kind pass.
_SELDOM_SECONDS = 60.0
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

#: Attributes that every record has, and those written under another name.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


def log_format_option(command: F) -> F:
    """Add `--log-format`, which arrives as `log_format`."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        envvar="UMBEL_LOG_FORMAT",
        show_default=True,
        help="json: one object per line, including the command's own messages. [env var: UMBEL_LOG_FORMAT]",
    )(command)


def printer(log_format: LogFormat) -> Callable[[str], None]:
    """`note`, in the format of the log."""
    return note if log_format == "text" else lambda text: click.echo(json_line(text), err=True)


class Seldom(logging.Filter):
    """Lets a repeated warning, such as that Redis is unreachable, pass once a minute.

    Warnings count as the same if they differ only in numbers, such as the number of attempts or the next delay.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is logged."""
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        kind = record.name, _NUMBER.sub("", record.getMessage())
        if now - self._logged_at.get(kind, -math.inf) < _SELDOM_SECONDS:
            return False
        self._logged_at[kind] = now
        return True


class WithoutTraceback(logging.Filter):
    """Takes the traceback from what an operator must correct: a wrong setting, a right that is missing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: the record is logged."""
        if record.exc_info and isinstance(record.exc_info[1], ConfigurationError):
            record.msg, record.args, record.exc_info = "%s", (str(record.exc_info[1]),), None
        return True


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object with `at`, `level`, `logger`, `message`, `pid` and more.

    In a step, `run_id`, `step` and `attempt` follow; then the fields given as `extra`, and `error` and `stack`, if any.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line. A value that JSON cannot represent is written as its `repr`."""
        fields: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        own = {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in fields}
        fields |= step_fields() | own
        if record.exc_info:
            fields["error"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        try:
            return _as_json(fields)
        except Exception:  # a key that is no text, a cycle, NaN, an object whose `__repr__` fails
            return _as_json({str(name): _readable(value) for name, value in fields.items()})


def _as_json(value: Any) -> str:
    return json.dumps(value, default=repr, ensure_ascii=False, allow_nan=False)


def _readable(value: Any) -> Any:
    """The value if JSON can represent it, else text. Never raises: the record would be lost."""
    try:
        _as_json(value)
        return value
    except Exception:
        try:
            return repr(value)
        except Exception as error:
            return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"


def log_as_json() -> None:
    """Let handlers that Celery sets up from now on, in this process and its pool's children, write JSON."""

    def use_json(logger: logging.Logger, **_: Any) -> None:
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())

    def say(text: str, file: Any = None) -> None:  # called in signal handlers: it must take no lock
        os.write(2, json_line(text.strip(), "celery.worker").encode() + b"\n")

    # Celery sets up the worker's loggers, and those of tasks with separate handlers.
    signals.after_setup_logger.connect(use_json, weak=False)
    signals.after_setup_task_logger.connect(use_json, weak=False)
    celery_worker.safe_say = say  # its messages at shutdown bypass all loggers


def json_line(text: str, logger: str = "umbel.cli") -> str:
    """A message of a command, as a record of level INFO."""
    return JsonFormatter().format(logging.LogRecord(logger, logging.INFO, "", 0, text, None, None))
