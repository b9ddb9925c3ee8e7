"""`umbel fork` and `umbel rewind`: continuing from a point of a run's past."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

import click

from ....orchestration.model.errors import UmbelError, WorkflowRuntimeError
from ....tasks.client.runtime import Runtime
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..other_code import missing_worker
from ..output import note
from ..runs.conditions import Conditions, condition_options
from ..runs.find import find_run
from ..runs.selecting import chosen

F = TypeVar("F", bound=Callable[..., object])

_ENDED = ("failed", "cancelled", "timed_out", "completed")


def _edit_options(command: F) -> F:
    """Add the options that edit the state and the events with which a run continues."""
    setting = click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=JSON",
        help="Set a key of ctx.store before the run continues; null deletes it.",
    )
    event = click.option(
        "--event",
        "events",
        multiple=True,
        metavar="STEP=JSON",
        help="Replace fields of the event that a step is executed with; a work item's id instead of STEP works too.",
    )
    return event(setting(command))


def _point_option(*, required: bool) -> Callable[[F], F]:
    text = "57, 'before STEP', 'after STEP', 'before STEP#2'."
    more = "" if required else " By default before the last attempt of the step in --where."
    return click.option("--from", "point", required=required, metavar="POINT", help=text + more)


def _pairs(given: Sequence[str], what: str) -> dict[str, Any]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise click.UsageError(f"Expected {what}, got {text!r}. Text is quoted: name='\"Ada\"'.")
    return found


def _edits(settings: Sequence[str], events: Sequence[str]) -> Mapping[str, Any]:
    return {
        "state": _pairs(settings, "--set KEY=JSON") or None,
        "events": _pairs(events, "--event STEP=JSON") or None,
    }


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@_point_option(required=False)
@_edit_options
@condition_options
@click.option(
    "--reuse",
    type=click.Choice(["none", "recorded"]),
    help="recorded: reuse recorded outcomes of steps whose events, and what they read, are the same.",
)
@click.option(
    "--answers",
    type=click.Choice(["ask", "recorded"]),
    help="recorded: answer waits with the recorded answers.",
)
@click.option(
    "--children", type=click.Choice(["keep", "fork"]), help="fork: also fork the child runs that steps wait for."
)
@click.option("--code", type=click.Choice(["current", "recorded"]), help="recorded: use the plan of the original run.")
@click.option("--session", metavar="NAME", help="Make the new run the first of a new session with this name.")
@click.option("--keep-idempotency-keys", is_flag=True, help="Steps keep the idempotency keys of the original run.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@deployment_options
def fork(
    run_ids: tuple[str, ...],
    point: str | None,
    settings: tuple[str, ...],
    events: tuple[str, ...],
    reuse: str | None,
    answers: str | None,
    children: str | None,
    code: str | None,
    session: str | None,
    keep_idempotency_keys: bool,
    yes: bool,
    redis_url: str | None,
    state: str | None,
    **conditions: Unpack[Conditions],
) -> None:
    """Start runs that continue from a point of other runs, and print their ids.

    One for each RUN, or for each ended run that meets the conditions. Work that had ended at the point is not executed
    again.
    """
    options = {"reuse": reuse, "answers": answers, "children": children, "code": code, "session": session}
    edits = {**_edits(settings, events), **{name: value for name, value in options.items() if value}}
    forked: set[str] = set()
    problems, step = [], conditions["where"].get("step")
    if point is None and step is None:
        raise click.UsageError("Give the point: --from 'before STEP', or a step: --where step=STEP.")
    with existing_runtime(redis_url, state) as runtime:
        if len(run_ids) == 1:
            run_ids = (runtime.portal.call(find_run(runtime.store, run_ids[0])),)
        ids = chosen(
            runtime, run_ids, conditions, every=False, of_statuses=_ENDED, by_default=_ENDED[:1], verb="Fork", yes=yes
        )
        for run_id in ids:
            try:
                handler = runtime.attach(run_id)
                start = handler.at(step=step, nth=-1, edge="before") if point is None else point
                made = handler.fork(start, keep_idempotency_keys=keep_idempotency_keys, **edits)
                click.echo(made.run_id)
                forked.add(runtime.portal.call(runtime.store.run(made.run_id)).workflow)
            except UmbelError as error:
                problems.append(str(error))
        _note_missing_workers(runtime, forked)
    if problems:
        raise WorkflowRuntimeError(" ".join(problems))


@click.command()
@click.argument("run_id", metavar="RUN")
@_point_option(required=True)
@_edit_options
@click.option(
    "--stop-running", is_flag=True, help="Rewind the run even while it is running; its running steps are stopped."
)
@deployment_options
def rewind(
    run_id: str,
    point: str,
    settings: tuple[str, ...],
    events: tuple[str, ...],
    stop_running: bool,
    redis_url: str | None,
    state: str | None,
) -> None:
    """Set RUN back to a point of its past; it continues from there under its own id."""
    edits = _edits(settings, events)
    with existing_runtime(redis_url, state) as runtime:
        handler = runtime.attach(runtime.portal.call(find_run(runtime.store, run_id)))
        handler.rewind(point, stop_running=stop_running, **edits)
        note(f"Run {handler.run_id!r} continues from {point!r}. Follow it with: umbel events {handler.run_id} -f")
        _note_missing_workers(runtime, {runtime.portal.call(runtime.store.run(handler.run_id)).workflow})


def _note_missing_workers(runtime: Runtime, workflows: Iterable[str]) -> None:
    for workflow in sorted(workflows):
        if (missing := runtime.portal.call(missing_worker(runtime.store, workflow))) is not None:
            note(missing)
