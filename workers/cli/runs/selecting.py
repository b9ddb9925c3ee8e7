"""The runs that a command acts on: those given by id, or those that meet the conditions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import click

from ....orchestration.connection.keys import check_run_id
from ....orchestration.inspection.endings import failure_of
from ....tasks.client.runs import RunSummary, runs
from ....tasks.client.runtime import Runtime
from ..output import counted, note
from .conditions import Conditions, is_given, statuses_of


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
    """Whether a failed run failed in this step; for any other run, whether the step had an outcome."""
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
    """The given ids, or those of the runs that meet the conditions, which the user is asked to confirm.

    Args:
        runtime: The deployment.
        run_ids, conditions, every: From the command line: either ids, or conditions or `--all`.
        of_statuses: Statuses of the runs that the command can act on.
        by_default: The statuses it acts on if none is given; None for all of them.
        verb: What the command does, as in "Delete 3 runs?".
        yes: Do not ask.

    Raises:
        UsageError: Neither or both of ids and conditions are given, or a status that the command cannot act on.
        Abort: The user did not confirm.
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
