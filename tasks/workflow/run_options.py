"""What a workflow says of its runs: how long they may take and are kept, their priority, their tags."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

from ...orchestration.model.durations import LONGEST_SECONDS, is_duration
from ...orchestration.model.errors import WorkflowValidationError
from ..events.event import HumanResponseEvent, InputRequiredEvent
from ..steps.decorators import StepConfig
from .source import mentions

#: Most tags of a run, and characters of each: they are read with every run that is looked through.
_MAX_TAGS, _MAX_TAG_CHARACTERS = 32, 100


class _OfClass(float):
    """No time limit is given: the one of the class holds, else this one."""


#: The time limit of runs of a workflow that waits for nobody.
OF_CLASS = _OfClass(45.0)


def check_timeout(timeout: object) -> None:
    """Raise WorkflowValidationError unless it is a number of seconds, or None."""
    if timeout is not None and not is_duration(timeout):
        raise WorkflowValidationError(
            f"timeout must be a number of seconds up to {LONGEST_SECONDS:,}, got {timeout!r}. Pass None for no limit."
        )


def retention_option(retention: object) -> dict[str, int]:
    """The option of a run that says how long it is kept once it has ended; `lib/retention.lua` reads it.

    Raises:
        WorkflowValidationError: It is neither a positive number of seconds nor a positive `timedelta`.
    """
    seconds = retention.total_seconds() if isinstance(retention, timedelta) else retention
    if not is_duration(seconds) or seconds < 0.001:
        raise WorkflowValidationError(
            f"retention must be a timedelta or a number of seconds, from 0.001 to {LONGEST_SECONDS:,}, got "
            f"{retention!r}. Leave it out to keep ended runs as long as UMBEL_RETENTION_SECONDS says."
        )
    return {"retention_ms": round(seconds * 1000)}


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, each once.

    Raises:
        WorkflowValidationError: They are a single text, too many or too long, or something else than texts.
    """
    if isinstance(tags, str):
        raise WorkflowValidationError(f"tags must be a list of texts, got the text {tags!r}. Write tags=[{tags!r}].")
    found = tuple(dict.fromkeys(tags))
    unfit = [tag for tag in found if not isinstance(tag, str) or not 0 < len(tag) <= _MAX_TAG_CHARACTERS]
    if unfit or len(found) > _MAX_TAGS:
        raise WorkflowValidationError(
            f"A run has at most {_MAX_TAGS} tags of 1 to {_MAX_TAG_CHARACTERS} characters, got "
            f"{f'{unfit[0]!r}' if unfit else f'{len(found)} of them'}."
        )
    return found


def checked_priority(priority: object) -> int:
    """The priority.

    Raises:
        WorkflowValidationError: Celery has no such priority.
    """
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 255:
        raise WorkflowValidationError(f"priority must be an integer from 0 to 255, got {priority!r}.")
    return priority


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
