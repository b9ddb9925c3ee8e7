"""`umbel pause` and `umbel resume`: queues that no worker takes messages from."""

from __future__ import annotations

import click

from ....orchestration.engine.worker_directory import pause_queue, paused_queues, resume_queue, seen_workers
from ....orchestration.model.errors import WorkflowRuntimeError
from ..deployment import deployment_options, existing
from ..output import instant, note, print_table


@click.command()
@click.argument("queue", required=False)
@deployment_options
def pause(queue: str | None, redis_url: str | None, state: str | None) -> None:
    """Let no worker of the deployment take messages from QUEUE. Without QUEUE: list what is paused.

    Workers follow within a few seconds, and so do workers that start later. Steps that are running go on; runs wait at
    their next step of that queue, and their timeouts go on.
    """
    with existing(redis_url, state) as runtime:
        if queue is None:
            found = runtime.portal.call(paused_queues(runtime.store))
            if not found:
                note("No queue is paused.")
                return
            print_table(("QUEUE", "PAUSED SINCE"), ((name, instant(since)) for name, since in sorted(found.items())))
            return
        runtime.portal.call(pause_queue(runtime.store, queue))
        workers = runtime.portal.call(seen_workers(runtime.store))
    note(f"Paused queue {queue!r}. Resume it with: umbel resume {queue}")
    if not any(queue in (*worker.queues, *worker.paused) for worker in workers if worker.is_live):
        note(f"No live worker takes messages from {queue!r}.")


@click.command()
@click.argument("queue")
@deployment_options
def resume(queue: str, redis_url: str | None, state: str | None) -> None:
    """Let workers take messages from QUEUE again."""
    with existing(redis_url, state) as runtime:
        if not runtime.portal.call(resume_queue(runtime.store, queue)):
            raise WorkflowRuntimeError(f"Queue {queue!r} is not paused. `umbel pause` lists those that are.")
    note(f"Resumed queue {queue!r}.")
