"""`umbel send`, `umbel cancel` and `umbel retry`: acting on a run from outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import click
from pydantic import ValidationError, create_model

from ....orchestration.engine.worker_directory import seen_workers
from ....orchestration.inspection.dead_letters import dead_runs
from ....orchestration.inspection.unfinished import unfinished
from ....orchestration.model.errors import NotRetried, RunNotFound, WorkflowRuntimeError
from ....orchestration.store.keys import check_run_id
from ....tasks.client.retrying import retry_run
from ....tasks.client.runtime import Runtime
from ....tasks.events.event import BUILT_IN_EVENTS, Event, event_name
from ..deployment import deployment_options, existing
from ..fields import field_arguments, read_fields
from ..output import counted, note
from ..targets import build, load_target


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("event", metavar="EVENT")
@field_arguments
@click.option("--step", metavar="STEP", help="Only to this step.")
@click.option("--target", metavar="TARGET", help="Load this, so that fields are checked against the event's class.")
@deployment_options
def send(
    run_id: str,
    event: str,
    pairs: tuple[str, ...],
    input_text: str | None,
    step: str | None,
    target: str | None,
    redis_url: str | None,
    state: str,
) -> None:
    """Send EVENT with the given fields into RUN, to every step and waiter that accepts it.

    EVENT is a class name, such as Approved or shop.flows.Approved; of those that the run can take, the last part of the
    name suffices.
    """
    fields = read_fields(pairs, input_text)
    check_run_id(run_id)
    loaded = [] if target is None else [cls for each in load_target(target) for cls in build(each).events]
    with existing(redis_url, state) as runtime:
        handler = runtime.attach(run_id)
        if handler.is_done():
            raise WorkflowRuntimeError(f"Run {run_id!r} has ended: it is {handler.status()}. Start a new run.")
        name = _whole_name(event, run_id, [*map(event_name, loaded), *_acceptable(runtime, run_id)])
        handler.send_event(_event(name, fields, loaded), step)
    note(f"{name} is sent to run {run_id!r}.")


def _acceptable(runtime: Runtime, run_id: str) -> list[str]:
    """Wire names of events that the run can take: those of its steps, and those it waits for right now."""
    plan = runtime.store.plan_of(run_id)
    waiters = runtime.store.surroundings(run_id).waiters
    return [*(name for step in plan.steps for name in step.accepts), *(waiter.event_type for waiter in waiters)]


def _whole_name(given: str, run_id: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    if given in names:
        return given
    found = [name for name in [*names, *BUILT_IN_EVENTS] if name.rpartition(".")[2] == given]
    if len(set(found)) == 1:
        return found[0]
    if not found and "." in given:
        return given  # nobody takes it yet; it waits in the run's inbox
    what = f"{given!r} may be any of {', '.join(found)}" if found else f"run {run_id!r} takes no event called {given!r}"
    raise WorkflowRuntimeError(
        f"{what[0].upper()}{what[1:]}. It takes: {', '.join(names)}. Give one of these names; an event that nobody "
        f"takes yet needs its whole name, module.Class."
    )


def _event(name: str, fields: dict[str, Any], loaded: Iterable[type[Event]]) -> Event:
    classes = {event_name(cls): cls for cls in loaded} | BUILT_IN_EVENTS
    try:
        return (classes.get(name) or _stand_in(name, fields))(**fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the event'}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise WorkflowRuntimeError(f"The fields do not make a {name}: {problems}.") from error


def _stand_in(name: str, fields: Iterable[str]) -> type[Event]:
    """An event class of this name whose code is not loaded here; the worker checks the fields against the real one."""
    module, _, qualname = name.rpartition(".")
    declared: dict[str, Any] = dict.fromkeys(fields, (Any, ...))
    with warnings.catch_warnings(action="ignore"):  # pydantic's advice on field names is for the author of the class
        return create_model(qualname, __base__=Event, __module__=module, **declared)


@click.command()
@click.argument("run_id", metavar="RUN")
@deployment_options
def cancel(run_id: str, redis_url: str | None, state: str) -> None:
    """Cancel RUN: its steps are told at once, and nothing new of it begins."""
    check_run_id(run_id)
    with existing(redis_url, state) as runtime:
        handler = runtime.attach(run_id)
        handler.cancel()
        status = handler.status()
    if status != "cancelled":
        raise WorkflowRuntimeError(f"Run {run_id!r} had ended before: it is {status}.")
    note(f"Run {run_id!r} is cancelled.")


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@click.option("--all", "every", is_flag=True, help="All failed runs, as `umbel dead` lists them.")
@click.option("--workflow", metavar="NAME", help="With --all: only runs of this workflow.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@deployment_options
def retry(
    run_ids: tuple[str, ...], every: bool, workflow: str | None, yes: bool, redis_url: str | None, state: str
) -> None:
    """Take up each RUN again that failed, timed out or was cancelled: its unfinished steps anew, the rest is kept."""
    if every == bool(run_ids) or (workflow is not None and not every):
        raise click.UsageError(
            "Name the runs, or say --all for those that `umbel dead` lists (and --workflow with it)."
        )
    with existing(redis_url, state) as runtime:
        if every:
            run_ids = tuple(each.run_id for each in dead_runs(runtime.store, workflow=workflow, limit=_MOST_AT_ONCE))
            if not run_ids:
                note("No run has failed.")
                return
            if not yes:
                click.confirm(f"Take up {counted(len(run_ids), 'failed run')} again?", abort=True, err=True)
        problems = [problem for run_id in run_ids if (problem := _retry(runtime, run_id)) is not None]
    if problems:
        raise WorkflowRuntimeError(" ".join(problems))


#: Runs that `--all` takes up in one go; called again it goes on with the next.
_MOST_AT_ONCE = 10_000


def _retry(runtime: Runtime, run_id: str) -> str | None:
    """Take one run up again and say so; else why that cannot be."""
    try:
        reply = retry_run(runtime, run_id)
        record = runtime.store.run(run_id)
    except (RunNotFound, NotRetried) as error:
        return str(error)
    steps = len(reply.dispatches) or len(unfinished(runtime.store, run_id))
    how = "waits at its workflow's limit" if record.waits_for_admission else f"goes on with {counted(steps, 'step')}"
    note(f"Run {run_id!r} {how}. Follow it with: umbel events {run_id} -f")
    if not any(worker.serves(record.workflow) for worker in seen_workers(runtime.store)):
        note(f"No live worker serves {record.workflow!r}; the run waits for one (umbel worker, umbel dev).")
    return None
