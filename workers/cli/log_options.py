"""`--log-format`: how a process that serves tells what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from .log_format import LogFormat, json_line
from .output import note

F = TypeVar("F", bound=Callable[..., object])


def log_format_option(command: F) -> F:
    """Add `--log-format`, which arrives as `log_format`."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        envvar="UMBEL_LOG_FORMAT",
        show_default=True,
        help="json: one object per line, also of what the command itself says; else UMBEL_LOG_FORMAT.",
    )(command)


def teller(log_format: LogFormat) -> Callable[[str], None]:
    """`note`, in the format of the log."""
    return note if log_format == "text" else lambda text: note(json_line(text))


def pass_on(line: str) -> None:
    """Tell a line of a process that belongs to this one, in whatever format it has."""
    note(line)
