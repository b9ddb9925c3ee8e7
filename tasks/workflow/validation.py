"""Checks that the steps of a workflow fit together: everything that can be checked before a run.

Each rule is a function that yields problems, in words an author can use. The rules about events, fan-outs and handlers
are reported together; the graph checks follow only if those find nothing, since one missing event would fail most of
them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from ...orchestration.model.errors import WorkflowConfigurationError, WorkflowValidationError
from ..events.event import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent
from ..events.run_events import JoinExpired
from ..steps.decorators import StepConfig
from .fan_out_levels import TOP, FanOutLevel, fan_out_levels
from .graph_checks import GraphCheck, graph_problems

Steps = Mapping[str, StepConfig]
EventT = TypeVar("EventT", bound=Event)

_FROM_OUTSIDE = (InputRequiredEvent, HumanResponseEvent, StopEvent, StepFailedEvent, JoinExpired)
_TO_OUTSIDE = (InputRequiredEvent, HumanResponseEvent, StopEvent)


def start_event_class(workflow: str, steps: Steps) -> type[StartEvent]:
    """The one `StartEvent` class that the steps accept.

    Args:
        workflow: The class's name, for messages.
        steps: The steps by name.

    Raises:
        WorkflowConfigurationError: The steps accept none, or several.
    """
    accepted = [(event, name) for name, config in _own(steps) for event in config.accepted_events]
    found = _named_by(StartEvent, accepted)
    if not found:
        raise WorkflowConfigurationError(
            f"At least one Event of type StartEvent must be received by any step. Workflow {workflow!r} "
            f"{_has_steps(steps)}; give one step a parameter annotated StartEvent or a subclass of it."
        )
    if len(found) > 1:
        raise WorkflowConfigurationError(
            f"Only one type of StartEvent is allowed per workflow, found {len(found)}: {_with_steps(found)}, in "
            f"workflow {workflow!r}. Accept one class everywhere."
        )
    return next(iter(found))


def stop_event_class(workflow: str, steps: Steps) -> type[StopEvent]:
    """The one `StopEvent` class that the steps return; see `start_event_class`."""
    returned = [(event, name) for name, config in _own(steps) for event in config.emits]
    found = _named_by(StopEvent, returned)
    if not found:
        raise WorkflowConfigurationError(
            f"At least one Event of type StopEvent must be returned by any step. Workflow {workflow!r} "
            f"{_has_steps(steps)}; annotate the step that ends a run with `-> StopEvent` or a subclass of it."
        )
    if len(found) > 1:
        raise WorkflowConfigurationError(
            f"Only one type of StopEvent is allowed per workflow, found {len(found)}: {_with_steps(found)}, in "
            f"workflow {workflow!r}. Return one class everywhere."
        )
    return next(iter(found))


def _own(steps: Steps) -> list[tuple[str, StepConfig]]:
    """The steps except those that run a child, whose start and stop events are the child's."""
    return [(name, config) for name, config in steps.items() if not config.is_child]


def check_workflow(workflow: str, steps: Steps, skip_graph_checks: Collection[GraphCheck] = ()) -> bool:
    """Check that the steps form a valid workflow.

    Args:
        workflow: The class's name, for messages.
        steps: The steps by name.
        skip_graph_checks: Graph checks to leave out for all steps.

    Returns:
        Whether it has a human in the loop: emits `InputRequiredEvent` or accepts `HumanResponseEvent`.

    Raises:
        WorkflowConfigurationError: There are no steps, or not exactly one start and one stop event class.
        WorkflowValidationError: The steps do not fit together; the message lists every problem found.
    """
    if not steps:
        raise WorkflowConfigurationError(
            f"Workflow {workflow!r} has no configured steps. Decorate its methods with @step, or register free "
            f"functions with @step(workflow={workflow})."
        )
    start = start_event_class(workflow, steps)
    stop_event_class(workflow, steps)
    levels = fan_out_levels(steps)
    problems = [
        *_uncollectable(workflow, steps, levels),
        *_unjoinable(workflow, steps, levels),
        *_stop_accepted(workflow, steps),
        *_never_produced(workflow, steps, start),
        *_never_consumed(workflow, steps),
        *_handler_conflicts(workflow, steps),
    ]
    if problems:
        raise WorkflowValidationError("\n".join(problems))
    if problems := list(graph_problems(steps, start, skip_graph_checks)):
        raise WorkflowValidationError(
            "Graph validation failed:\n"
            + "\n".join(problems)
            + f"\nFix the annotations of workflow {workflow!r}, or name a check in skip_graph_checks."
        )
    emitted = {event for config in steps.values() for event in config.emits}
    accepted = {event for config in steps.values() for event in config.accepted_events}
    return any(issubclass(event, InputRequiredEvent) for event in emitted) or any(
        issubclass(event, HumanResponseEvent) for event in accepted
    )


def _uncollectable(workflow: str, steps: Steps, levels: Mapping[str, FanOutLevel]) -> Iterator[str]:
    streamed = {event for name, level in levels.items() if name != TOP for event in level.events}
    for name, config in steps.items():
        if config.kind != "collect":
            continue
        parameter = config.event_parameters[0]
        missing = [
            accepted for accepted in parameter.accepts if not any(config.matches(event, accepted) for event in streamed)
        ]
        if missing:
            yield (
                f"Step {name!r} parameter {parameter.name!r} collects list[{_names(missing, ' | ')}], but no "
                f"returned-list producer creates a stream for those event types in workflow {workflow!r}. A list[E] "
                "parameter gathers what follows from a list that a step returned: annotate a step before it with "
                "`-> list[...]`, or use ctx.collect_events for events sent one by one."
            )


def _unjoinable(workflow: str, steps: Steps, levels: Mapping[str, FanOutLevel]) -> Iterator[str]:
    for name, config in steps.items():
        if config.kind != "all_of" or any(name in level.runs for level in levels.values()):
            continue
        slots = []
        for parameter in config.event_parameters:
            (accepted,) = parameter.accepts
            at = [
                "the top level" if level_name == TOP else f"the stream of step {level_name!r}"
                for level_name, level in levels.items()
                if any(config.matches(event, accepted) for event in level.events)
            ]
            slots.append(f"{parameter.name!r} ({accepted.__name__}) is produced at {', '.join(at) or 'no level'}")
        yield (
            f"Step {name!r} joins event parameters that are never produced at a common stream level in workflow "
            f"{workflow!r}: {'; '.join(slots)}. A join runs only when all its events come from the same fan-out, or "
            "all from outside any. Collect the fan-out first, or wait for the other event with ctx.wait_for_event."
        )


def _stop_accepted(workflow: str, steps: Steps) -> Iterator[str]:
    of_children = {event for config in steps.values() if config.is_child for event in config.emits}
    ends = {
        name: [event for event in config.accepted_events if issubclass(event, StopEvent) and event not in of_children]
        for name, config in steps.items()
    }
    names = [name for name, events in ends.items() if events]
    if names:
        yield (
            f"Step{'s' if len(names) > 1 else ''} {_quoted(names)} cannot accept StopEvent. It ends the run of "
            f"workflow {workflow!r}, so no step would see it. Use a different Event type instead."
        )


def _never_produced(workflow: str, steps: Steps, start: type[StartEvent]) -> Iterator[str]:
    produced = {start} | {event for config in steps.values() for event in config.emits}
    waiting: dict[type[Event], list[str]] = {}
    for name, config in steps.items():
        for accepted in dict.fromkeys(config.accepted_events):
            if not issubclass(accepted, _FROM_OUTSIDE) and not any(config.matches(e, accepted) for e in produced):
                waiting.setdefault(accepted, []).append(name)
    if waiting:
        who = "; ".join(
            f"{_step_list(waiting[event], 'waits', 'wait')} for {_names([event])}" for event in _sorted(waiting)
        )
        yield (
            f"The following events are consumed but never produced: {_names(waiting)}. In workflow {workflow!r}, "
            f"{who}. Name the event in a step's return annotation (also when it is sent with ctx.send_event), or "
            f"derive it from HumanResponseEvent if it comes from outside.{_subclass_hint(waiting, produced)}"
        )


def _subclass_hint(waiting: Mapping[type[Event], list[str]], produced: Iterable[type[Event]]) -> str:
    pairs = [(event, accepted) for accepted in waiting for event in produced if issubclass(event, accepted)]
    shown = sorted(f"{event.__name__} derives from {accepted.__name__}" for event, accepted in pairs)
    if not shown:
        return ""
    return f" {', '.join(shown)}, but routing goes by exact class; @step(accept_event_subclasses=True) changes that."


def _never_consumed(workflow: str, steps: Steps) -> Iterator[str]:
    unused: dict[type[Event], list[str]] = {}
    for name, config in steps.items():
        for event in config.emits:
            if not issubclass(event, _TO_OUTSIDE) and not any(other.accepts(event) for other in steps.values()):
                unused.setdefault(event, []).append(name)
    if unused:
        who = "; ".join(
            f"{_step_list(unused[event], 'returns', 'return')} {_names([event])}" for event in _sorted(unused)
        )
        yield (
            f"The following events are produced but never consumed: {_names(unused)}. In workflow {workflow!r}, "
            f"{who}. Give a step a parameter of that class, or derive it from InputRequiredEvent or StopEvent if it "
            "is to leave the workflow."
        )


def _handler_conflicts(workflow: str, steps: Steps) -> Iterator[str]:
    handlers = {name: config.recovers for name, config in steps.items() if config.recovers}
    wildcards = [name for name, recovers in handlers.items() if recovers == ("*",)]
    if len(wildcards) > 1:
        yield (
            "Only one wildcard @catch_error handler is allowed per workflow, found "
            f"{len(wildcards)}: {', '.join(wildcards)} in workflow {workflow!r}. Give the others for_steps=[...]."
        )
    claimed: dict[str, str] = {}
    for name, recovers in handlers.items():
        for covered in recovers if name not in wildcards else ():
            if covered not in steps:
                yield (
                    f"@catch_error handler {name!r} lists unknown step {covered!r} in for_steps. Workflow {workflow!r} "
                    f"has: {', '.join(steps)}."
                )
            elif covered in handlers:
                yield (
                    f"@catch_error handler {name!r} cannot cover another handler step {covered!r} in workflow "
                    f"{workflow!r}. When a handler fails, the run fails."
                )
            elif claimed.setdefault(covered, name) != name:
                yield (
                    f"Step {covered!r} is claimed by two @catch_error handlers: {claimed[covered]!r} and {name!r}, in "
                    f"workflow {workflow!r}. Name it in one of them."
                )


def _named_by(base: type[EventT], events: Iterable[tuple[type[Event], str]]) -> dict[type[EventT], list[str]]:
    """The subclasses of `base` among `events`, each with the steps that name it."""
    found: dict[type[EventT], list[str]] = {}
    for event, name in events:
        if issubclass(event, base):
            found.setdefault(event, []).append(name)
    return found


def _sorted(events: Iterable[type[Event]]) -> list[type[Event]]:
    return sorted(events, key=lambda event: event.__name__)


def _names(events: Iterable[type[Event]], separator: str = ", ") -> str:
    return separator.join(event.__name__ for event in _sorted(events))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _step_list(names: list[str], singular: str, plural: str) -> str:
    return f"step {_quoted(names)} {singular}" if len(names) == 1 else f"steps {_quoted(names)} {plural}"


def _with_steps(found: Mapping[type[EventT], list[str]]) -> str:
    shown = [f"{event.__name__} ({_quoted(dict.fromkeys(names))})" for event, names in found.items()]
    return ", ".join(sorted(shown))


def _has_steps(steps: Steps) -> str:
    return f"has the steps {_quoted(steps)}" if steps else "has no steps"
