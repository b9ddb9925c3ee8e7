"""Options of commands that act on many runs, and the runs they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypedDict, TypeVar

import click

from ....orchestration.connection.keys import check_run_id
from ....orchestration.inspection.endings import failure_of
from ....orchestration.model.commands import RUN_STATUSES
from ....tasks.client.runs import RunSummary, runs
from ....tasks.client.runtime import Runtime
from ..output import counted, note

F = TypeVar("F", bound=Callable[..., object])

_AGE = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Conditions(TypedDict):
    """What the options say; they arrive as keyword arguments of these names."""

    status: tuple[str, ...]
    workflow: tuple[str, ...]
    tag: tuple[str, ...]
    since: datetime | None
    older_than: datetime | None
    where: dict[str, str]


def _instant(text: str) -> datetime:
    """`30m`, `2h`, `7d`, counted back from now, or a date with or without a time."""
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
            "--older-than", type=_instant, metavar="AGE", help="Only runs that ended before that: 2h, 7d, or a date."
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


def found(runtime: Runtime, conditions: Conditions, *, limit: int | None = None) -> list[RunSummary]:
    """The runs that meet the conditions."""
    where = conditions["where"]
    step = where.get("step")
    selection = runs(
        status=statuses_of(conditions),
        workflow=(*conditions["workflow"], *([where["workflow"]] if "workflow" in where else [])),
        tags=(*conditions["tag"], *([where["tag"]] if "tag" in where else [])),
        started_after=conditions["since"],
        ended_before=conditions["older_than"],
        limit=None if step else limit,
        runtime=runtime,
    )
    return selection if step is None else [*islice((run for run in selection if _is_at(runtime, run, step)), limit)]


def _is_at(runtime: Runtime, run: RunSummary, step: str) -> bool:
    """Whether a run has failed in a step; of one that has not failed, whether the step had an outcome."""
    if run.status == "failed":
        failure = failure_of(runtime.portal.call(runtime.store.run(run.run_id)))
        return failure is not None and failure[0] == step
    return any(True for _ in runtime.attach(run.run_id).history(step=step, kinds=["commit"]))


def chosen(
    runtime: Runtime,
    run_ids: Sequence[str],
    conditions: Conditions,
    *,
    every: bool,
    of_statuses: Sequence[str],
    by_default: Sequence[str] | None = None,
    verb: str,
    yes: bool,
) -> list[str]:
    """The ids that were given, or those of the runs that meet the conditions, after a question to the user.

    Args:
        runtime: The deployment.
        run_ids, conditions, every: What was given: either ids, or conditions or `--all`.
        of_statuses: Which runs the command can act on.
        by_default: Those it acts on if no status is given; None for all of them.
        verb: What it does, as in "Delete 3 runs?".
        yes: Do not ask.

    Raises:
        UsageError: Nothing or too much is given.
        Abort: The user said no.
    """
    if bool(run_ids) == (is_given(conditions) or every):
        raise click.UsageError("Give run ids, or --all, or conditions such as --workflow, --tag or --since.")
    if run_ids:
        return [check_run_id(run_id) for run_id in run_ids]
    statuses = statuses_of(conditions) or tuple(of_statuses if by_default is None else by_default)
    if refused := [status for status in statuses if status not in of_statuses]:
        raise click.UsageError(f"This command acts on runs that are {', '.join(of_statuses)}, not {refused[0]}.")
    selection = found(runtime, {**conditions, "status": statuses})
    if not selection:
        note("No matching runs.")
    elif not yes:
        noun = f"{statuses[0].replace('_', ' ')} run" if len(statuses) == 1 else "run"
        click.confirm(f"{verb} {counted(len(selection), noun)}?", abort=True, err=True)
    return [run.run_id for run in selection]
