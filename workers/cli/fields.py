"""`key=value …` and `--input`: an event's fields as the command line gives them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])


def field_arguments(command: F) -> F:
    """Add `key=value …` and `--input`, which arrive as `pairs` and `input_text`; see `read_fields`."""
    given = click.option(
        "--input", "input_text", metavar="JSON|@FILE", help="Fields as a JSON object; @- reads standard input."
    )
    return click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")(given(command))


def read_fields(pairs: Sequence[str], input_text: str | None) -> dict[str, Any]:
    """The fields of both. A value that is valid JSON is read as JSON, any other as text.

    Raises:
        click.UsageError: A value cannot be read, or a field is given twice.
    """
    fields = {} if input_text is None else _read_input(input_text)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"Expected KEY=VALUE, got {pair!r}. Quote it if it contains spaces.")
        if key in fields:
            where = "in both --input and KEY=VALUE" if input_text is not None else "twice"
            raise click.UsageError(f"The field {key!r} is given {where}. Give it once.")
        fields[key] = _value(value)
    return fields


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # so it is text: Python's parser would read NaN as a number


def _read_input(text: str) -> dict[str, Any]:
    source = "--input"
    try:
        if text.startswith("@"):
            source = text[1:]
            text = sys.stdin.read() if source == "-" else Path(source).read_text()
        fields = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{source} is not valid JSON: {error}. Expected a JSON object or @FILE.") from error
    if not isinstance(fields, dict):
        raise click.UsageError(f"{source}: expected a JSON object of fields, got {type(fields).__name__}.")
    return fields
