"""The options of a workflow's runs: time limit, retention, priority, tags."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

from ...orchestration.model.durations import LONGEST_SECONDS, SHORTEST_SECONDS, is_duration
from ...orchestration.model.errors import WorkflowValidationError
from ..events.event import HumanResponseEvent, InputRequiredEvent
from ..steps.decorators import StepConfig
from .source import mentions

#: Most tags of a run, and most characters of each: they are read with every run in a search.
_MAX_TAGS, _MAX_TAG_CHARACTERS = 32, 100


class _OfClass(float):
    """The type of `OF_CLASS`: no time limit is given, so the class's limit applies, else this number of seconds."""


#: The default time limit of runs of a workflow that does not wait for people.
OF_CLASS = _OfClass(45.0)


def check_timeout(timeout: object) -> None:
    """Raise WorkflowValidationError unless `timeout` is a number of seconds or None."""
    if timeout is not None and not is_duration(timeout):
        raise WorkflowValidationError(
            f"timeout must be a number of seconds up to {LONGEST_SECONDS:,}, got {timeout!r}. Pass None for no limit."
        )


def retention_option(retention: object) -> dict[str, int]:
    """The run option that says how long an ended run is kept; `lib/retention.lua` reads it.

    Raises:
        WorkflowValidationError: `retention` is neither a positive number of seconds nor a positive `timedelta`.
    """
    seconds = retention.total_seconds() if isinstance(retention, timedelta) else retention
    if not is_duration(seconds) or seconds < SHORTEST_SECONDS:
        raise WorkflowValidationError(
            f"retention must be a timedelta or a number of seconds, from {SHORTEST_SECONDS} to {LONGEST_SECONDS:,}, "
            f"got {retention!r}. Leave it out to keep ended runs as long as UMBEL_RETENTION_SECONDS says."
        )
    return {"retention_ms": round(seconds * 1000)}


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags without duplicates.

    Raises:
        WorkflowValidationError: `tags` is a single string, or the tags are too many, too long or not strings.
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
    """The class's time limit; else no limit for a workflow that waits for people or events, else the default limit."""
    if of_class is not OF_CLASS:
        return of_class
    return None if _waits_for_events(steps) else float(OF_CLASS)


def _waits_for_events(steps: Collection[StepConfig]) -> bool:
    """Whether a step asks people or accepts their answers, or its own code mentions `wait_for_event`."""
    return any(
        issubclass(event, InputRequiredEvent | HumanResponseEvent)
        for config in steps
        for event in (*config.emits, *config.accepted_events)
    ) or any(mentions(config.function, "wait_for_event") for config in steps)
