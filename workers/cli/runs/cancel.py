"""`umbel cancel`: ending runs."""

from __future__ import annotations

from typing import Unpack

import click

from ....orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ....tasks.client.runs import cancel_runs
from ....tasks.client.runtime import Runtime
from ..deployment import deployment_options, existing
from ..output import counted, note
from .selecting import Conditions, chosen, condition_options


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@condition_options
@click.option("--all", "every", is_flag=True, help="All runs that are running.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@deployment_options
def cancel(
    run_ids: tuple[str, ...],
    every: bool,
    yes: bool,
    redis_url: str | None,
    state: str | None,
    **conditions: Unpack[Conditions],
) -> None:
    """Cancel runs: running steps are interrupted, and no new step starts.

    Each RUN, or the running ones that meet the conditions.
    """
    with existing(redis_url, state) as runtime:
        ids = chosen(runtime, run_ids, conditions, every=every, of_statuses=("running",), verb="Cancel", yes=yes)
        done = cancel_runs(ids, runtime=runtime)
        problems = [problem for run_id in run_ids if run_id not in done and (problem := _problem(runtime, run_id))]
    if run_ids:
        for run_id in ids:
            if not any(repr(run_id) in problem for problem in problems):
                note(f"Cancelled run {run_id!r}.")
    elif ids:
        note(f"Cancelled {counted(len(done), 'run')}.")
    if problems:
        raise WorkflowRuntimeError(" ".join(problems))


def _problem(runtime: Runtime, run_id: str) -> str | None:
    """Why a run was not cancelled; None if it was, before."""
    try:
        status = runtime.portal.call(runtime.store.run(run_id)).status
    except RunNotFound as error:
        return str(error)
    return None if status == "cancelled" else f"Run {run_id!r} has already ended: its status is {status}."
