"""`umbel cancel`: ending a run."""

from __future__ import annotations

import click

from ....orchestration.connection.keys import check_run_id
from ....orchestration.model.errors import WorkflowRuntimeError
from ..deployment import deployment_options, existing
from ..output import note


@click.command()
@click.argument("run_id", metavar="RUN")
@deployment_options
def cancel(run_id: str, redis_url: str | None, state: str | None) -> None:
    """Cancel RUN: running steps are interrupted, and no new step starts."""
    check_run_id(run_id)
    with existing(redis_url, state) as runtime:
        handler = runtime.attach(run_id)
        handler.cancel()
        status = handler.status()
    if status != "cancelled":
        raise WorkflowRuntimeError(f"Run {run_id!r} has already ended: its status is {status}.")
    note(f"Cancelled run {run_id!r}.")
