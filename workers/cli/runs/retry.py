"""`umbel retry`: resuming failed runs."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ....orchestration.engine.worker_directory import seen_workers
from ....orchestration.inspection.dead_letters import dead_runs
from ....orchestration.inspection.unfinished import unfinished
from ....orchestration.model.errors import NotRetried, RunNotFound, WorkflowRuntimeError
from ....tasks.client.runtime import Runtime
from ..deployment import deployment_options, existing
from ..output import counted, note

#: Runs that one `--all` resumes; repeat the command for the next ones.
_MAX_RUNS = 10_000


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@click.option("--all", "every", is_flag=True, help="All failed runs, as listed by `umbel failed`.")
@click.option("--workflow", metavar="NAME", help="With --all: only runs of this workflow.")
@click.option("--yes", is_flag=True, help="With --all: do not ask for confirmation.")
@deployment_options
def retry(
    run_ids: tuple[str, ...], every: bool, workflow: str | None, yes: bool, redis_url: str | None, state: str | None
) -> None:
    """Resume each failed, timed out or cancelled RUN: unfinished steps run again, finished ones are kept."""
    if every == bool(run_ids) or (workflow is not None and not every):
        raise click.UsageError("Give run ids, or --all for the runs that `umbel failed` lists (optionally --workflow).")
    with existing(redis_url, state) as runtime:
        if every:
            found = runtime.portal.call(dead_runs(runtime.store, workflow=workflow, limit=_MAX_RUNS))
            run_ids = tuple(each.run_id for each in found)
            if not run_ids:
                note("No failed runs.")
                return
            if not yes:
                click.confirm(f"Resume {counted(len(run_ids), 'failed run')}?", abort=True, err=True)
        problems = runtime.portal.call(_resume(runtime, run_ids))
    if problems:
        raise WorkflowRuntimeError(" ".join(problems))


async def _resume(runtime: Runtime, run_ids: Iterable[str]) -> list[str]:
    """Resume runs and print that; returns the errors of those that cannot be resumed."""
    return [problem for run_id in run_ids if (problem := await _retry(runtime, run_id)) is not None]


async def _retry(runtime: Runtime, run_id: str) -> str | None:
    try:
        reply = await runtime.engine.retry(run_id)
        record = await runtime.store.run(run_id)
    except (RunNotFound, NotRetried) as error:
        return str(error)
    steps = len(reply.dispatches) or len(await unfinished(runtime.store, run_id))
    how = (
        "is waiting for its workflow's concurrency limit"
        if record.waits_for_admission
        else f"resumes with {counted(steps, 'step')}"
    )
    note(f"Run {run_id!r} {how}. Follow it with: umbel events {run_id} -f")
    if not any(worker.serves(record.workflow) for worker in await seen_workers(runtime.store)):
        note(
            f"No live worker serves {record.workflow!r}; start one to execute the run: umbel worker … (or umbel dev …)."
        )
    return None
