"""How commands print: results and tables on standard output, everything else on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

#: Control characters, which a terminal obeys instead of showing them, and characters that change the text direction.
_OBEYED = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {ord("\n"), ord("\t")}
_AS_ESCAPES = {code: repr(chr(code))[1:-1] for code in _OBEYED}


def visible(text: str) -> str:
    """Text of any origin, made safe for a terminal: characters that the terminal would obey become escapes."""
    return text.translate(_AS_ESCAPES)


def say(text: str = "", *, err: bool = False) -> None:
    """Print text that may contain values of events, results and errors."""
    click.echo(visible(text), err=err)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns. Nothing is truncated or wrapped, so that other programs can read it too."""
    lines = [[visible(cell) for cell in line] for line in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def print_json(value: Any) -> None:
    """Print one JSON value, for people and programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Print something that is not the result."""
    say(text, err=True)


def instant(milliseconds: int | None) -> str:
    """An instant in local time; empty for None."""
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock(milliseconds: int) -> str:
    """An instant in local time without the date, with milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def iso(milliseconds: int | None) -> str | None:
    """An instant as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def counted(number: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
