"""Joins of events that belong together: checks of `join_by`, `within_seconds` and `Collect(by=…)`."""

from __future__ import annotations

from collections.abc import Sequence

from ...orchestration.model.durations import LONGEST_SECONDS, is_duration
from ...orchestration.model.errors import WorkflowValidationError
from .signature import EventParameter


def check_join(
    where: str, parameters: Sequence[EventParameter], join_by: str | None, within_seconds: float | None
) -> None:
    """Refuse join options that do not match a step's parameters.

    Args:
        where: The step, for messages.
        parameters: Its event parameters.
        join_by, within_seconds: As in `step`.

    Raises:
        WorkflowValidationError: An option does not match.
    """
    for each in parameters:
        _check_field("Collect(by", where, each, each.by)
    if join_by is None and within_seconds is None:
        return
    if len(parameters) < 2:
        raise WorkflowValidationError(
            f"@step(join_by=…, within_seconds=…) on {where!r} needs several event parameters to join; it has "
            f"{len(parameters)}. Gather the events of a fan-out with Collect(All(), by=…)."
        )
    if within_seconds is not None and not (is_duration(within_seconds) and within_seconds > 0):
        raise WorkflowValidationError(
            f"within_seconds of {where!r} must be a number of seconds up to {LONGEST_SECONDS:,}, got "
            f"{within_seconds!r}."
        )
    for each in parameters:
        _check_field("@step(join_by", where, each, join_by)


def _check_field(option: str, where: str, parameter: EventParameter, name: str | None) -> None:
    lacking = [event.__name__ for event in parameter.accepts if name not in event.model_fields]
    if name is not None and lacking:
        raise WorkflowValidationError(
            f"{option}={name!r}) on {where!r}: {', '.join(lacking)} has no such field. Declare it in each event class "
            f"of parameter {parameter.name!r}."
        )
