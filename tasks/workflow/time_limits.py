"""The time limit of runs whose workflow was given none."""

from __future__ import annotations

from collections.abc import Collection

from ..events.event import HumanResponseEvent, InputRequiredEvent
from ..steps.decorators import StepConfig
from .mentions import mentions


class _OfClass(float):
    """No time limit is given: the one of the class holds, else this one."""


#: The time limit of runs of a workflow that waits for nobody.
OF_CLASS = _OfClass(45.0)


def default_limit(of_class: float | None, steps: Collection[StepConfig]) -> float | None:
    """The limit of the class; else none for a workflow that waits for what may take as long as people do."""
    if of_class is not OF_CLASS:
        return of_class
    return None if _waits_for_events(steps) else float(OF_CLASS)


def _waits_for_events(steps: Collection[StepConfig]) -> bool:
    """Whether a step asks people or takes their answers, or its own code mentions `wait_for_event`."""
    return any(
        issubclass(event, InputRequiredEvent | HumanResponseEvent)
        for config in steps
        for event in (*config.emits, *config.accepted_events)
    ) or any(mentions(config.function, "wait_for_event") for config in steps)
