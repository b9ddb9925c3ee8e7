"""`umbel run` and `umbel start`: begin a run, and with `run` see it through."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn

import click

from ....orchestration.engine.worker_directory import seen_workers
from ....orchestration.inspection.endings import result_of, why_not_completed
from ....orchestration.model.envelope import IDLE
from ....orchestration.store.replies import RunRecord
from ....tasks.client.handler import WorkflowHandler
from ....tasks.client.runtime import Runtime, start_event_for, use_runtime
from ....tasks.client.workflow import Workflow
from ....tasks.events.event import StartEvent, StopEvent
from ...local.command_process import WorkerProcess
from ..deployment import configured, deployment_options, embedded, existing
from ..fields import field_arguments, read_fields
from ..output import note, print_json
from ..progress import LIVE_SECONDS, Display, JournalTail, Progress, display
from ..targets import load_workflow
from .worker import concurrency_option, loglevel_option, pool_option

#: Seconds without any step before somebody is told that no worker may be there.
_PATIENCE_SECONDS = 3.0
#: Seconds that the worker of a finished run may take for steps nobody waits for.
_DRAIN_SECONDS = 2.0

run_id_option = click.option("--run-id", metavar="ID", help="An id of your own: starting it twice is an error.")


@click.command()
@click.argument("target")
@field_arguments
@run_id_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pool_option
@concurrency_option
@loglevel_option("WARNING")
@deployment_options
def run(
    target: str,
    pairs: tuple[str, ...],
    input_text: str | None,
    run_id: str | None,
    as_json: bool,
    pool: str,
    concurrency: int | None,
    loglevel: str,
    redis_url: str | None,
    state: str,
) -> None:
    """Run the workflow TARGET with the given start event and print its result.

    Progress goes to standard error, the result alone to standard output. Exits with 1 when the run fails.

    Without a Redis (--redis, UMBEL_REDIS_URL) everything is embedded: a Redis server that keeps the run for
    `umbel show`, and a worker. With one, the run is carried out by the workers of that deployment.
    """
    workflow, event = _prepared(target, pairs, input_text)
    settings = configured(redis_url)
    with ExitStack() as stack:
        shown = display()
        stack.callback(shown.close)
        worker: WorkerProcess | None = None
        if settings.redis_url is None:
            settings, supervisor = stack.enter_context(embedded(settings, state))
            brief = settings.model_copy(update={"drain_seconds": min(_DRAIN_SECONDS, settings.drain_seconds)})
            worker = stack.enter_context(
                WorkerProcess(
                    brief,
                    [target],
                    supervisor,
                    pool=pool,
                    concurrency=concurrency,
                    options=["--quiet", "--loglevel", loglevel],
                    say=shown.say,
                )
            )
        runtime = Runtime(settings)
        stack.callback(runtime.close)
        if worker is not None:
            _warn_of_strangers(runtime, workflow, shown)
        handler = _begin(runtime, workflow, event, run_id)
        check = worker.check if worker is not None else _hint_at_missing_worker(runtime, workflow, shown)
        try:
            record = _watch(runtime, handler.run_id, shown, check)
        except KeyboardInterrupt:
            shown.close()
            _interrupted(handler, is_embedded=worker is not None)
        if worker is not None:
            worker.mute()  # what it says of its own end is of no interest
        shown.close()
        failure = why_not_completed(record)
        if failure is not None:
            note(f"{failure} See it with: umbel show {record.run_id}")
            sys.exit(1)
        if as_json:
            print_json(result_of(record))
        else:
            click.echo(_plain_result(handler))


@click.command()
@click.argument("target")
@field_arguments
@run_id_option
@deployment_options
def start(
    target: str,
    pairs: tuple[str, ...],
    input_text: str | None,
    run_id: str | None,
    redis_url: str | None,
    state: str,
) -> None:
    """Start a run of TARGET with the given start event, print the run's id and return.

    The run is carried out by workers (`umbel worker`, `umbel dev`), now or as soon as there are any.
    """
    workflow, event = _prepared(target, pairs, input_text)
    with existing(redis_url, state) as runtime:
        handler = _begin(runtime, workflow, event, run_id)
        click.echo(handler.run_id)
        name = workflow.workflow_name
        if not any(worker.serves(name) for worker in seen_workers(runtime.store)):
            note(
                f"No live worker serves {name!r}; the run waits for one: umbel worker {target} (or umbel dev {target})."
            )


def _prepared(target: str, pairs: tuple[str, ...], input_text: str | None) -> tuple[Workflow, StartEvent]:
    fields = read_fields(pairs, input_text)
    workflow = load_workflow(target)
    workflow.ensure_valid()
    return workflow, start_event_for(workflow, None, fields)


def _begin(runtime: Runtime, workflow: Workflow, event: StartEvent, run_id: str | None) -> WorkflowHandler:
    with use_runtime(runtime):
        return workflow.run(start_event=event, run_id=run_id)


def _watch(runtime: Runtime, run_id: str, shown: Display, check: Callable[[], None]) -> RunRecord:
    """Show the run's progress until it has ended."""
    reader = runtime.hub.reader(run_id, internal=True)
    tail = JournalTail(runtime.store, run_id)
    progress = Progress()
    next_look = 0.0
    while True:
        try:
            for event in reader.events(timeout=LIVE_SECONDS):
                progress.began((event,))
                if event.envelope.type == IDLE:
                    _tell_what_it_waits_for(runtime, run_id, shown)
                if time.monotonic() >= next_look:
                    break
            else:
                break
        except TimeoutError:
            check()
        progress.ended(tail.new())
        shown.show(progress)
        next_look = time.monotonic() + LIVE_SECONDS
    progress.ended(tail.new())
    shown.show(progress, is_last=True)
    return runtime.store.run(run_id)


def _tell_what_it_waits_for(runtime: Runtime, run_id: str, shown: Display) -> None:
    waiters = runtime.store.surroundings(run_id).waiters
    for name in sorted({waiter.event_type for waiter in waiters}):
        short = name.rpartition(".")[2]
        shown.say(f"The run waits for {short}. Send it with: umbel send {run_id} {short} key=value")


def _warn_of_strangers(runtime: Runtime, workflow: Workflow, shown: Display) -> None:
    """Workers with other code on the same queue take each other's messages and have to hand them back."""
    for worker in seen_workers(runtime.store):
        if worker.is_live and not worker.serves(workflow.workflow_name):
            shown.say(
                f"Beside this run, {worker.name} serves {', '.join(worker.workflows)} from the same queue, which slows "
                f"both. Keep them apart with --state NAME."
            )


def _hint_at_missing_worker(runtime: Runtime, workflow: Workflow, shown: Display) -> Callable[[], None]:
    look_at = time.monotonic() + _PATIENCE_SECONDS

    def check() -> None:
        nonlocal look_at
        if time.monotonic() < look_at:
            return
        look_at = float("inf")
        name = workflow.workflow_name
        if not any(worker.serves(name) for worker in seen_workers(runtime.store)):
            shown.say(f"No live worker serves {name!r}; the run waits for one: umbel worker …")

    return check


def _interrupted(handler: WorkflowHandler, *, is_embedded: bool) -> NoReturn:
    run_id = handler.run_id
    if is_embedded:
        handler.cancel()
        note(f"Run {run_id!r} is cancelled. Take it up again with: umbel retry {run_id}")
    else:
        note(
            f"Run {run_id!r} goes on. Follow it with: umbel events {run_id} --follow. "
            f"End it with: umbel cancel {run_id}"
        )
    sys.exit(130)


def _plain_result(handler: WorkflowHandler) -> str:
    event = handler.get_stop_event()
    if type(event) is StopEvent or (event is not None and event.result is not None):
        return str(event.result)
    return str(event) if type(event).__str__ is not StopEvent.__str__ else repr(event)
