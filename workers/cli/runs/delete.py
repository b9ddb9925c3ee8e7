"""`umbel delete`: removing ended runs before their retention is over."""

from __future__ import annotations

from typing import Unpack

import click

from ....orchestration.model.commands import RUN_STATUSES
from ....orchestration.model.errors import WorkflowRuntimeError
from ....tasks.client.runs import delete_runs
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..output import counted, note
from .conditions import Conditions, condition_options
from .find import whole_id
from .selecting import chosen


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@condition_options
@click.option("--all", "every", is_flag=True, help="All runs that have ended.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@deployment_options
def delete(
    run_ids: tuple[str, ...],
    every: bool,
    yes: bool,
    redis_url: str | None,
    state: str | None,
    **conditions: Unpack[Conditions],
) -> None:
    """Delete ended runs and everything stored of them: each RUN, or the runs that meet the conditions."""
    ended = RUN_STATUSES[1:]
    with existing_runtime(redis_url, state) as runtime:
        run_ids = tuple(runtime.portal.call(whole_id(runtime.store, run_id)) for run_id in run_ids)
        ids = chosen(runtime, run_ids, conditions, every=every, of_statuses=ended, verb="Delete", yes=yes)
        done = delete_runs(ids, runtime=runtime)
    if run_ids and (left := [run_id for run_id in ids if run_id not in done]):
        raise WorkflowRuntimeError(
            f"Not deleted: {', '.join(left)}. There is no such run, or it is running: `umbel cancel` ends it."
        )
    if ids:
        note(f"Deleted {counted(len(done), 'run')}.")
