"""`key=value …` and `--input`: an event's fields on the command line."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ...tasks.events.event import Event
from ...tasks.values.plain_fields import input_names
from ...tasks.values.typed_text import read_json, read_typed

F = TypeVar("F", bound=Callable[..., object])


def field_arguments(command: F) -> F:
    """Add `key=value …` and `--input`, which arrive as `pairs` and `input_text`; see `read_fields`."""
    given = click.option(
        "--input",
        "input_text",
        metavar="JSON|@FILE",
        help="Fields as a JSON object; @- reads standard input. KEY=VALUE follows the field's type, KEY:=JSON is JSON.",
    )
    return click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")(given(command))


def read_fields(pairs: Sequence[str], input_text: str | None, cls: type[Event] | None = None) -> dict[str, Any]:
    """The fields of both.

    `KEY:=VALUE` is JSON. `KEY=VALUE` is read by the type of the field: a text field takes VALUE as text; another field
    takes it as JSON if that is a value of the field, else as text. If the type is unknown, valid JSON is read as JSON.

    Args:
        pairs: The `KEY=VALUE` arguments.
        input_text: The value of `--input`.
        cls: The event's class, if it is known.

    Raises:
        click.UsageError: A value cannot be read, a field is given twice, or the class declares other fields.
    """
    fields = {} if input_text is None else _read_input(input_text)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        is_json, key = key.endswith(":"), key.removesuffix(":")
        if not equals or not key:
            raise click.UsageError(f"Expected KEY=VALUE, got {pair!r}. Quote it if it contains spaces.")
        if key in fields:
            where = "in both --input and KEY=VALUE" if input_text is not None else "twice"
            raise click.UsageError(f"The field {key!r} is given {where}. Give it once.")
        declared = _declared(key, cls)
        fields[key] = _json(key, value) if is_json else read_typed(value, declared)
    return fields


def _declared(key: str, cls: type[Event] | None) -> Any:
    """The type of a field; Any if it is not known."""
    if cls is None or not cls.model_fields:
        return Any
    by_name = {name: field.annotation for name, field in cls.model_fields.items()}
    by_name |= {field.alias: field.annotation for field in cls.model_fields.values() if field.alias}
    if key in by_name:
        return by_name[key]
    near = difflib.get_close_matches(key, by_name, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise click.UsageError(
        f"{cls.__name__} has no field {key!r}. {hint}Its fields: {', '.join(input_names(cls))}. To give it anyway, "
        f"use --input '{{\"{key}\": …}}'."
    )


def _json(key: str, text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise click.UsageError(f"{key}:={text} is not valid JSON: {error}. Use {key}={text} for text.") from error


def _read_input(text: str) -> dict[str, Any]:
    source = "--input"
    try:
        if text.startswith("@"):
            source = text[1:]
            text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        fields = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{source} is not valid JSON: {error}. Expected a JSON object or @FILE.") from error
    if not isinstance(fields, dict):
        raise click.UsageError(f"{source}: expected a JSON object of fields, got {type(fields).__name__}.")
    return fields
