"""`umbel pause` and `umbel resume`: workers stop consuming a queue, or stop beginning steps of a workflow."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ....orchestration.connection.portal import Portal
from ....orchestration.engine.pausing.queues import pause_queue, resume_queue
from ....orchestration.engine.pausing.workflows import (
    Pauses,
    covered_by,
    held_steps,
    pause_workflow,
    pauses,
    resume_workflow,
)
from ....orchestration.engine.worker_directory import seen_workers
from ....orchestration.model.errors import WorkflowRuntimeError
from ....orchestration.store.verbs import Store
from ..deployment.existing import existing_store
from ..deployment.options import deployment_options
from ..output import instant, note, print_table

_workflow = click.option(
    "--workflow", "-w", metavar="NAME", help="A workflow instead of a queue; the last part of its name is enough."
)


@click.command()
@click.argument("queue", required=False)
@_workflow
@deployment_options
def pause(queue: str | None, workflow: str | None, redis_url: str | None, state: str | None) -> None:
    """Stop all workers from consuming QUEUE, or from beginning steps of a workflow. Without arguments: list both.

    Workers obey within a few seconds, also workers that start later. Running steps finish; runs wait at their next
    step, and their timeouts continue.
    """
    with existing_store(redis_url, state) as (store, portal):
        if queue is None and workflow is None:
            _list(store, portal)
            return
        if workflow is not None:
            _refuse_both(queue)
            portal.call(pause_workflow(store, workflow))
        else:
            portal.call(pause_queue(store, queue or ""))
        live = [worker for worker in portal.call(seen_workers(store)) if worker.is_live]
    if workflow is not None:
        note(f"Paused workflow {workflow!r}. Resume it with: umbel resume --workflow {workflow}")
        if not any(covered_by(name, (workflow,)) for worker in live for name in worker.workflows):
            note(f"No live worker has a workflow {workflow!r}.")
        return
    note(f"Paused queue {queue!r}. Resume it with: umbel resume {queue}")
    if not any(queue in (*worker.queues, *worker.paused) for worker in live):
        note(f"No live worker takes messages from {queue!r}.")


@click.command()
@click.argument("queue", required=False)
@_workflow
@deployment_options
def resume(queue: str | None, workflow: str | None, redis_url: str | None, state: str | None) -> None:
    """Let workers consume QUEUE again, or begin steps of a workflow again."""
    what = f"queue {queue!r}" if workflow is None else f"workflow {workflow!r}"
    with existing_store(redis_url, state) as (store, portal):
        if workflow is not None:
            _refuse_both(queue)
            was_paused = portal.call(resume_workflow(store, workflow))
        elif queue is None:
            raise WorkflowRuntimeError(
                "Name a queue, or a workflow with --workflow. `umbel pause` lists what is paused."
            )
        else:
            was_paused = portal.call(resume_queue(store, queue))
        if not was_paused:
            raise WorkflowRuntimeError(f"{what[0].upper()}{what[1:]} is not paused. `umbel pause` lists what is.")
    note(f"Resumed {what}.")


def _refuse_both(queue: str | None) -> None:
    if queue is not None:
        raise WorkflowRuntimeError("Name a queue or a workflow, not both: a queue is paused for all workflows.")


def _list(store: Store, portal: Portal) -> None:
    found = portal.call(pauses(store))
    if not found.queues and not found.workflows:
        note("Nothing is paused.")
        return
    print_table(("PAUSED", "NAME", "SINCE", "HELD STEPS"), _rows(store, portal, found))


def _rows(store: Store, portal: Portal, found: Pauses) -> Iterator[tuple[str, ...]]:
    for name, since in sorted(found.queues.items()):
        yield "queue", name, instant(since), ""
    for name, since in sorted(found.workflows.items()):
        yield "workflow", name, instant(since), str(portal.call(held_steps(store, name)))
