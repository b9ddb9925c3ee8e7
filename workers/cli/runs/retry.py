"""`umbel retry`: resuming failed runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

import click

from ....orchestration.inspection.unfinished import unfinished
from ....orchestration.model.errors import RunError, WorkflowRuntimeError
from ....tasks.client.runtime import Runtime
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..other_code import missing_worker
from ..output import counted, note
from .conditions import Conditions, condition_options
from .find import find_run
from .selecting import chosen

#: Statuses that can be resumed; without `--status`, only failed runs are.
_ENDED = ("failed", "cancelled", "timed_out")


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@condition_options
@click.option("--all", "every", is_flag=True, help="All failed runs, as listed by `umbel failed`.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@deployment_options
def retry(
    run_ids: tuple[str, ...],
    every: bool,
    yes: bool,
    redis_url: str | None,
    state: str | None,
    **conditions: Unpack[Conditions],
) -> None:
    """Resume failed, timed out or cancelled runs: unfinished steps run again, finished ones are kept.

    Resumes each RUN, or the failed runs that meet the conditions; --status selects timed out or cancelled runs.
    """
    with existing_runtime(redis_url, state) as runtime:
        ids = chosen(
            runtime,
            run_ids,
            conditions,
            every=every,
            of_statuses=_ENDED,
            by_default=_ENDED[:1],
            verb="Resume",
            yes=yes,
        )
        problems = runtime.portal.call(_resume(runtime, ids))
    if problems:
        raise WorkflowRuntimeError(" ".join(problems))


async def _resume(runtime: Runtime, run_ids: Iterable[str]) -> list[str]:
    """Resume runs and print each; returns the errors of those that cannot be resumed."""
    return [problem for run_id in run_ids if (problem := await _retry(runtime, run_id)) is not None]


async def _retry(runtime: Runtime, run_id: str) -> str | None:
    try:
        run_id = await find_run(runtime.store, run_id)
        reply = await runtime.engine.retry(run_id)
        record = await runtime.store.run(run_id)
    except RunError as error:
        return str(error)
    steps = len(reply.dispatches) or len(await unfinished(runtime.store, run_id))
    how = (
        "is waiting for its workflow's concurrency limit"
        if record.waits_for_admission
        else f"resumes with {counted(steps, 'step')}"
    )
    note(f"Run {run_id!r} {how}. Follow it with: umbel events {run_id} -f")
    if (missing := await missing_worker(runtime.store, record.workflow)) is not None:
        note(missing)
    return None
