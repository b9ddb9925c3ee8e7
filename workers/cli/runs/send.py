"""`umbel send`: sends an event into a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import click
from pydantic import ValidationError, create_model

from ....orchestration.model.errors import WorkflowRuntimeError
from ....orchestration.store.verbs import Store
from ....tasks.events.event import BUILT_IN_EVENTS, Event, event_name
from ....tasks.values.class_names import only_classes
from ..deployment.options import deployment_options
from ..deployment.runtime import existing_runtime
from ..fields import field_arguments, read_fields
from ..output import note
from ..questions import announced_events
from ..targets import build, load_target
from .find import find_run


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("given", metavar="EVENT")
@field_arguments
@click.option("--step", metavar="STEP", help="Send the event only to this step.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    envvar="UMBEL_TARGETS",
    metavar="TARGET",
    help="Load this target to read the fields with the types of the event's class. [env var: UMBEL_TARGETS]",
)
@deployment_options
def send(
    run_id: str,
    given: str,
    pairs: tuple[str, ...],
    input_text: str | None,
    step: str | None,
    targets: tuple[str, ...],
    redis_url: str | None,
    state: str | None,
) -> None:
    """Send EVENT with the given fields into RUN, to every step and waiter that accepts it.

    EVENT is a class name, such as Approved or shop.flows.Approved; the last part is enough for events the run accepts.
    """
    loaded = [cls for target in targets for each in load_target(target) for cls in build(each).events]
    with existing_runtime(redis_url, state) as runtime:
        run_id = runtime.portal.call(find_run(runtime.store, run_id))
        handler = runtime.attach(run_id)
        if handler.is_done():
            raise WorkflowRuntimeError(f"Run {run_id!r} has ended: its status is {handler.status()}. Start a new run.")
        accepted = runtime.portal.call(_acceptable(runtime.store, run_id))
        name = _full_name(given, run_id, [*map(event_name, loaded), *accepted])
        cls = ({event_name(cls): cls for cls in loaded} | BUILT_IN_EVENTS).get(name)
        announced = runtime.portal.call(announced_events(runtime.store)).get(name)
        fields = read_fields(pairs, input_text, cls or announced)
        event = _made(name, fields, cls or announced or _stand_in(name, fields))
        # An announced class lacks the real class's defaults, which fill in the fields that are not sent.
        handler.send_event(event if cls else _made(name, fields, _stand_in(name, fields)), step)
    note(f"Sent {name} to run {run_id!r}.")


async def _acceptable(store: Store, run_id: str) -> list[str]:
    """Wire names of the events that the run accepts: those of its steps, and those it is waiting for."""
    plan = await store.plan_of(run_id)
    waiters = (await store.surroundings(run_id)).waiters
    return [*(name for step in plan.steps for name in step.accepts), *(waiter.event_type for waiter in waiters)]


def _full_name(given: str, run_id: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    if given in names:
        return given
    found = [name for name in [*names, *BUILT_IN_EVENTS] if name.rpartition(".")[2] == given]
    if len(set(found)) == 1:
        return found[0]
    if not found and "." in given:
        return given  # no step accepts it yet; it waits in the run's inbox
    problem = f"{given!r} is ambiguous: {', '.join(found)}" if found else f"Run {run_id!r} accepts no event {given!r}"
    raise WorkflowRuntimeError(
        f"{problem}. It accepts: {', '.join(names)}. Use one of these names; an event that no step accepts yet needs "
        f"its full name, module.Class."
    )


def _made(name: str, fields: dict[str, Any], cls: type[Event]) -> Event:
    try:
        with only_classes(()):
            return cls(**fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the event'}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise WorkflowRuntimeError(f"Invalid fields for {name}: {problems}.") from error


def _stand_in(name: str, fields: Iterable[str]) -> type[Event]:
    """A class for an event whose code is not loaded here; the worker checks the fields against the real one."""
    module, _, qualname = name.rpartition(".")
    declared: dict[str, Any] = dict.fromkeys(fields, (Any, ...))
    with warnings.catch_warnings(action="ignore"):  # pydantic's advice on field names is for the class's author
        return create_model(qualname, __base__=Event, __module__=module, **declared)
