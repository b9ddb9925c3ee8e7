"""`umbel run` and `umbel start`: starting a run; `run` also waits for its result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn, get_args

import click

from ....orchestration.engine.worker_directory import seen_workers
from ....orchestration.inspection.endings import result_of, traceback_of, why_not_completed
from ....orchestration.model.commands import WhenBusy
from ....orchestration.model.envelope import IDLE, INPUT_REQUIRED, Envelope
from ....orchestration.store.replies import RunRecord
from ....tasks.client.handler import WorkflowHandler
from ....tasks.client.runtime import Runtime, use_runtime
from ....tasks.client.session import Session
from ....tasks.client.workflow import Workflow
from ....tasks.events.event import HumanResponseEvent, StartEvent, StopEvent
from ....tasks.workflow.definition import WorkflowDefinition
from ....tasks.workflow.start_events import start_event_for
from ...local.command_process import WorkerProcess
from ..deployment.existing import configured, embedded
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime, runtime_of
from ..fields import field_arguments, read_fields
from ..interrupts import INTERRUPTED, next_interrupt_ends
from ..other_code import await_same_code, missing_worker, warn_of_other_code
from ..output import note, print_json, visible
from ..progress import LIVE_SECONDS, Display, JournalTail, Progress, display
from ..questions import OpenQuestion, answer_fields, open_questions, question_text
from ..targets import llama_index_option, load_workflow
from ..waiting import paused_because, unaccepted_events
from .worker import concurrency_option, loglevel_option, pool_option

#: Seconds without any step after which a missing worker is reported.
_MISSING_WORKER_SECONDS = 3.0
#: Seconds that the worker of a finished run may still spend on its other steps.
_DRAIN_SECONDS = 2.0
#: The same after Ctrl-C.
_INTERRUPTED_SECONDS = 1.0

run_id_option = click.option("--run-id", metavar="ID", help="Custom run id; must be unique.")


@click.command()
@click.argument("target")
@field_arguments
@run_id_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pool_option
@concurrency_option
@loglevel_option("WARNING")
@llama_index_option
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
    state: str | None,
) -> None:
    """Run the workflow TARGET with the given start event and print its result.

    Progress goes to standard error, only the result to standard output. Exits with 1 if the run fails.

    Without --redis or UMBEL_REDIS_URL, umbel starts an embedded worker and an embedded Redis, which keeps the run for
    `umbel show`. With one of them, the workers of that deployment execute the run.
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
        runtime = runtime_of(settings)
        stack.callback(runtime.close)
        if worker is not None:
            _warn_of_other_workers(runtime, workflow, shown)
            await_same_code(runtime, workflow, shown.say)
        else:
            warn_of_other_code(runtime, workflow, shown.say)
        handler = _begin(runtime, workflow, event, run_id)
        shown.begin(handler.run_id)
        if (paused := runtime.portal.call(paused_because(runtime.store, workflow.workflow_name))) is not None:
            shown.say(paused)
        check = worker.check if worker is not None else _hint_at_missing_worker(runtime, workflow, shown)
        try:
            record = _watch(runtime, workflow, handler.run_id, shown, check)
        except KeyboardInterrupt:
            next_interrupt_ends()
            if worker is not None:
                worker.mute()
            shown.close()
            _interrupted(handler, worker)
        if worker is not None:
            worker.mute()  # its shutdown messages are of no interest
        shown.close()
        failure = why_not_completed(record)
        if failure is not None:
            if (trace := traceback_of(record)) is not None:
                note(trace)
            note(f"{failure} For details: umbel show {record.run_id}")
            sys.exit(1)
        if as_json:
            print_json(result_of(record))
        else:
            result = _plain_result(handler)
            click.echo(visible(result) if sys.stdout.isatty() else result)


@click.command()
@click.argument("target")
@field_arguments
@run_id_option
@click.option("--session", metavar="NAME", help="Start the run in this session, where it waits for its turn.")
@click.option(
    "--when-busy",
    type=click.Choice(get_args(WhenBusy)),
    help="What to do if another run of the session is running; by default queue.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag for finding the run later; repeatable.")
@click.option("--priority", type=click.IntRange(0, 255), help="Celery priority of steps that have none of their own.")
@llama_index_option
@deployment_options
def start(
    target: str,
    pairs: tuple[str, ...],
    input_text: str | None,
    run_id: str | None,
    session: str | None,
    when_busy: WhenBusy | None,
    tags: tuple[str, ...],
    priority: int | None,
    redis_url: str | None,
    state: str | None,
) -> None:
    """Start a run of TARGET with the given start event, print the run's id and return.

    Workers (`umbel worker`, `umbel dev`) execute the run as soon as one is available.
    """
    if session is None and when_busy is not None:
        raise click.UsageError("--when-busy is for runs of a session: give its --session, too.")
    if session is not None and run_id is not None:
        raise click.UsageError("Runs of a session get their ids from it: leave --run-id out.")
    workflow, event = _prepared(target, pairs, input_text)
    workflow = workflow.with_options(tags=tags or None, priority=priority)
    with existing_runtime(redis_url, state) as runtime:
        warn_of_other_code(runtime, workflow, note)
        if session is None:
            handler = _begin(runtime, workflow, event, run_id)
        else:
            handler = Session(session, runtime).run(workflow, event, when_busy=when_busy or "queue")
        click.echo(handler.run_id)
        if (missing := runtime.portal.call(missing_worker(runtime.store, workflow.workflow_name, target))) is not None:
            note(missing)


def _prepared(target: str, pairs: tuple[str, ...], input_text: str | None) -> tuple[Workflow, StartEvent]:
    workflow = load_workflow(target)
    WorkflowDefinition.ensure_valid(workflow)
    fields = read_fields(pairs, input_text, workflow.start_event_class)
    return workflow, start_event_for(workflow, None, fields)


def _begin(runtime: Runtime, workflow: Workflow, event: StartEvent, run_id: str | None) -> WorkflowHandler:
    with use_runtime(runtime):
        return workflow.run(start_event=event, run_id=run_id)


def _watch(runtime: Runtime, workflow: Workflow, run_id: str, shown: Display, check: Callable[[], None]) -> RunRecord:
    """Show the run's progress until it has ended."""
    questions = _Questions(runtime, workflow, run_id, shown)
    reader = runtime.hub.reader(run_id, internal=True)
    steps = {each.name for each in runtime.registry.of(workflow).plan.steps}
    tail = JournalTail(runtime.store, run_id, steps)
    progress = Progress()
    next_update = 0.0
    while True:
        try:
            for event in reader.events(timeout=LIVE_SECONDS):
                progress.began((event,))
                if event.envelope.is_a(INPUT_REQUIRED):
                    questions.asked = event.envelope
                elif event.envelope.type == IDLE:
                    questions.show()
                if time.monotonic() >= next_update:
                    break
            else:
                break
        except TimeoutError:
            check()
        progress.ended(runtime.portal.call(tail.new()))
        progress.expects(tail.totals)
        shown.show(progress)
        next_update = time.monotonic() + LIVE_SECONDS
    progress.ended(runtime.portal.call(tail.new()))
    progress.expects(tail.totals)
    shown.show(progress, is_last=True)
    return runtime.portal.call(runtime.store.run(run_id))


class _Questions:
    """Shows what the run waits for, each question once."""

    def __init__(self, runtime: Runtime, workflow: Workflow, run_id: str, shown: Display) -> None:
        self._runtime, self._workflow, self._run_id, self._shown = runtime, workflow, run_id, shown
        self._known: set[str] = set()
        #: The last published question not shown yet: a step may return a question instead of waiting for its answer.
        self.asked: Envelope | None = None

    def show(self) -> None:
        """The run is idle: show what it waits for."""
        store, classes = self._runtime.store, self._workflow.events
        found = self._runtime.portal.call(open_questions(store, self._run_id, classes))
        if not found and self.asked is not None:
            answers = [cls for cls in classes if issubclass(cls, HumanResponseEvent)]
            text = question_text(self.asked)
            found = [
                OpenQuestion(f"{text}|{cls.__name__}", "", cls.__name__, text, None, answer_fields(cls, {}))
                for cls in answers
            ]
        self.asked = None
        unaccepted = self._runtime.portal.call(unaccepted_events(store, self._run_id))
        if unaccepted is not None and unaccepted not in self._known:
            self._known.add(unaccepted)
            self._shown.say(unaccepted)
        for question in found:
            if question.id not in self._known:
                self._known.add(question.id)
                for line in question.lines(self._run_id):
                    self._shown.say(line)


def _warn_of_other_workers(runtime: Runtime, workflow: Workflow, shown: Display) -> None:
    """Warn of workers with different code on one queue: they receive each other's messages and park that work."""
    for worker in runtime.portal.call(seen_workers(runtime.store)):
        if worker.is_live and not worker.serves(workflow.workflow_name):
            shown.say(
                f"{worker.name} serves {', '.join(worker.workflows)} from the same queue as this run, which slows down "
                f"both. Separate them with --state NAME."
            )


def _hint_at_missing_worker(runtime: Runtime, workflow: Workflow, shown: Display) -> Callable[[], None]:
    check_at = time.monotonic() + _MISSING_WORKER_SECONDS

    def check() -> None:
        nonlocal check_at
        if time.monotonic() < check_at:
            return
        check_at = float("inf")
        if (missing := runtime.portal.call(missing_worker(runtime.store, workflow.workflow_name))) is not None:
            shown.say(missing)

    return check


def _interrupted(handler: WorkflowHandler, worker: WorkerProcess | None) -> NoReturn:
    run_id = handler.run_id
    if worker is not None:
        handler.cancel()
        worker.stop(within_seconds=_INTERRUPTED_SECONDS)
        note(f"Cancelled run {run_id!r}. Resume it with: umbel retry {run_id}")
    else:
        note(
            f"Run {run_id!r} continues. Follow it with: umbel events {run_id} --follow. "
            f"Cancel it with: umbel cancel {run_id}"
        )
    sys.exit(INTERRUPTED)


def _plain_result(handler: WorkflowHandler) -> str:
    event = handler.get_stop_event()
    if type(event) is StopEvent or (event is not None and event.result is not None):
        return str(event.result)
    return str(event) if type(event).__str__ is not StopEvent.__str__ else repr(event)
