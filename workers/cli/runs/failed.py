"""`umbel failed`: failed runs, parked steps and rejected messages."""

from __future__ import annotations

from typing import Any

import click

from ....orchestration.inspection.dead_letters import DeadRun, ParkedWork, dead_runs, history, parked_work
from ....orchestration.store.verbs import Store
from ...transport.quarantine import Quarantine, quarantined_of
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import counted, instant, iso, note, print_json, print_table

#: Characters of an error in the table; `--json` and `umbel show` have the full text.
_ERROR_CHARACTERS = 100


@click.command()
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow; the last part of its name is enough.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most this many of each kind."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, including each attempt.")
@deployment_options
def failed(workflow: str | None, limit: int, as_json: bool, redis_url: str | None, state: str | None) -> None:
    """List stuck work, latest first: failed runs, parked steps, rejected messages."""
    with existing_store(redis_url, state) as (store, portal):
        runs, parked = portal.call(_stuck(store, workflow, limit))
        messages = quarantined_of(store.settings) if workflow is None else {}
        if as_json:
            print_json(portal.call(_whole(store, runs, parked, messages)))
            return
    if not (runs or parked or messages):
        note("No failed runs, parked steps or rejected messages.")
        return
    rows = sorted([*map(_run_row, runs), *map(_parked_row, parked), *map(_message_row, messages.items())], reverse=True)
    print_table(
        ("WHEN", "KIND", "RUN OR QUEUE", "STEP", "COUNT", "REASON"),
        ((instant(at), *cells) for at, *cells in rows),
    )
    if runs:
        note(f"{counted(len(runs), 'failed run')}. Resume with: umbel retry RUN… (or --all)")
    if parked:
        note(f"{counted(len(parked), 'parked step')}. Start a worker that has the code to resume.")


async def _stuck(store: Store, workflow: str | None, limit: int) -> tuple[list[DeadRun], list[ParkedWork]]:
    runs = await dead_runs(store, workflow=workflow, limit=limit)
    return runs, await parked_work(store, workflow=workflow, limit=limit)


def _run_row(run: DeadRun) -> tuple[int, str, str, str, str, str]:
    error = run.error if len(run.error) <= _ERROR_CHARACTERS else f"{run.error[:_ERROR_CHARACTERS]}…"
    why = f"{run.reason}: {' '.join(error.split())}"
    return run.failed_at, "run", run.run_id, run.step, str(run.attempts or ""), why


def _parked_row(work: ParkedWork) -> tuple[int, str, str, str, str, str]:
    return work.parked_at, "parked", work.run_id, work.step, "", f"no worker has its code: {work.workflow}"


def _message_row(found: tuple[str, Quarantine]) -> tuple[int, str, str, str, str, str]:
    queue, quarantine = found
    latest = quarantine.latest
    at = 0 if latest is None else round(latest.at * 1000)
    why = "cannot be decoded" if latest is None else f"cannot be decoded: {' '.join(latest.reason.split())}"
    return at, "messages", queue, "", str(quarantine.count), why


async def _whole(
    store: Store, runs: list[DeadRun], parked: list[ParkedWork], messages: dict[str, Quarantine]
) -> dict[str, Any]:
    return {
        "runs": [
            {
                "run_id": each.run_id,
                "workflow": each.workflow,
                "step": each.step,
                "reason": each.reason,
                "attempts": each.attempts,
                "error": each.error,
                "failed_at": iso(each.failed_at),
                "history": [
                    {
                        "attempt": execution.attempt,
                        "worker": execution.worker,
                        "started_at": iso(execution.started_at),
                        "ended_at": iso(execution.ended_at),
                        "outcome": execution.outcome,
                        "error": execution.error,
                    }
                    for execution in await history(store, each)
                ],
            }
            for each in runs
        ],
        "parked": [
            {
                "run_id": each.run_id,
                "workflow": each.workflow,
                "step": each.step,
                "parked_at": iso(each.parked_at),
            }
            for each in parked
        ],
        "messages": [
            {
                "queue": queue,
                "count": each.count,
                "kept": each.kept,
                "latest_at": None if each.latest is None else iso(round(each.latest.at * 1000)),
                "latest_reason": None if each.latest is None else each.latest.reason,
            }
            for queue, each in messages.items()
        ],
    }
