"""`umbel cancel`: ending runs, or single steps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import click

from ....orchestration.engine.cancelling.selection import Selection
from ....orchestration.model.errors import RunNotFound, WorkflowRuntimeError
from ....tasks.client.runs import cancel_runs
from ....tasks.client.runtime import Runtime
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..output import counted, note
from .conditions import Conditions, condition_options
from .find import whole_id
from .selecting import chosen


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@condition_options
@click.option("--step", metavar="STEP", help="Cancel only the executions of this step; the runs continue.")
@click.option("--downstream", is_flag=True, help="With --step: also cancel the work that resulted from this step.")
@click.option("--all", "every", is_flag=True, help="All runs that are running.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@deployment_options
def cancel(
    run_ids: tuple[str, ...],
    step: str | None,
    downstream: bool,
    every: bool,
    yes: bool,
    redis_url: str | None,
    state: str | None,
    **conditions: Unpack[Conditions],
) -> None:
    """Cancel runs: running steps are interrupted, and no new step starts.

    Cancels each RUN, or the running runs that meet the conditions. With --step, only executions of that step.
    """
    if downstream and step is None:
        raise click.UsageError("--downstream needs --step STEP: a run is always cancelled as a whole.")
    with existing_runtime(redis_url, state) as runtime:
        run_ids = tuple(runtime.portal.call(whole_id(runtime.store, run_id)) for run_id in run_ids)
        ids = chosen(runtime, run_ids, conditions, every=every, of_statuses=("running",), verb="Cancel", yes=yes)
        if step is not None:
            _cancel_step(runtime, ids, step, downstream=downstream)
            return
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


def _cancel_step(runtime: Runtime, run_ids: Sequence[str], step: str, *, downstream: bool) -> None:
    for run_id in run_ids:
        work = runtime.engine.cancel_work(run_id, Selection(step=step), downstream=downstream)
        note(f"Cancelled {counted(runtime.portal.call(work), 'execution')} of step {step!r} of run {run_id!r}.")


def _problem(runtime: Runtime, run_id: str) -> str | None:
    """Why a run was not cancelled; None if it had been cancelled before."""
    try:
        status = runtime.portal.call(runtime.store.run(run_id)).status
    except RunNotFound as error:
        return str(error)
    return None if status == "cancelled" else f"Run {run_id!r} has already ended: its status is {status}."
