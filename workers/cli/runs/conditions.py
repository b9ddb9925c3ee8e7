"""Options of commands that act on many runs: the conditions that the runs must meet."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypedDict, TypeVar

import click

from ....orchestration.model.commands import RUN_STATUSES

F = TypeVar("F", bound=Callable[..., object])

_AGE = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Conditions(TypedDict):
    """The values of the options, which arrive as keyword arguments of these names."""

    status: tuple[str, ...]
    workflow: tuple[str, ...]
    tag: tuple[str, ...]
    since: datetime | None
    older_than: datetime | None
    where: dict[str, str]


def _instant(text: str) -> datetime:
    """Read `30m`, `2h`, `7d`, counted back from now, or a date with or without a time."""
    if age := _AGE.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is neither an age like 30m, 2h or 7d nor a date like 2026-01-31T12:00."
        ) from error


def _read_where(_: click.Context, __: click.Parameter, text: str | None) -> dict[str, str]:
    wanted = {}
    for part in (text or "").replace(",", " ").split():
        name, equals, value = part.partition("=")
        if name not in ("status", "workflow", "tag", "step") or not (equals and value) or name in wanted:
            raise click.BadParameter(f"{part!r}: expected one each of status=…, workflow=…, tag=…, step=…")
        wanted[name] = value
    if wanted.get("status", "running") not in RUN_STATUSES:
        raise click.BadParameter(f"status={wanted['status']}: expected one of {', '.join(RUN_STATUSES)}")
    return wanted


tag_option = click.option(
    "--tag", multiple=True, metavar="TAG", help="Only runs with this tag; repeatable: runs with all of the tags."
)
since_option = click.option(
    "--since",
    type=_instant,
    metavar="AGE",
    help="Only runs that started within this time, or since this date: 2h, 7d, 2026-11-30.",
)


def condition_options(command: F) -> F:
    """Add the options of `Conditions`."""
    options = (
        click.option("--status", multiple=True, type=click.Choice(RUN_STATUSES), help="Only runs with this status."),
        click.option(
            "--workflow",
            multiple=True,
            metavar="NAME",
            help="Only runs of this workflow; the last part of its name is enough.",
        ),
        tag_option,
        since_option,
        click.option(
            "--older-than",
            type=_instant,
            metavar="AGE",
            help="Only runs that ended at least this long ago (2h, 7d), or before this date.",
        ),
        click.option(
            "--where",
            callback=_read_where,
            metavar="CONDITIONS",
            help="'status=failed workflow=Order tag=eu step=charge'; step: the failed step, or one with an outcome.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def is_given(conditions: Conditions) -> bool:
    """Whether any condition is given."""
    return any(value not in ((), None, {}) for value in conditions.values())


def statuses_of(conditions: Conditions) -> tuple[str, ...]:
    """The statuses that the conditions name."""
    where = conditions["where"]
    return tuple(dict.fromkeys([*conditions["status"], *([where["status"]] if "status" in where else [])]))
