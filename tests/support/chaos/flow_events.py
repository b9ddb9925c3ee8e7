"""Events of the chaos workflows, and the base class with which each workflow declares its expected outcome."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from umbel import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    Workflow,
)


class Started(StartEvent):
    n: int = 1
    seconds: float = 0.0


class Odd(Event):
    n: int
    left: int
    seconds: float


class Even(Event):
    n: int
    left: int
    seconds: float


class Task(Event):
    n: int
    seconds: float = 0.0


class SlowTask(Event):
    n: int
    seconds: float = 0.0


class Outcome(Event):
    n: int


class Group(Event):
    n: int
    size: int
    seconds: float


class Sum(Event):
    ns: list[int]


class Ask(Event):
    n: int


class Asked(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int
    text: str


class Noted(Event):
    n: int
    work: str
    attempt: int


class Broken(Exception):
    """The exception that chaos steps raise on purpose."""


class Chaotic(Workflow):
    """Base class: declares the result and the commits that a run of this workflow must have."""

    KIND: ClassVar[str] = ""
    #: Constructor options for its runs.
    OPTIONS: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def session(n: int) -> str | None:
        """Return the session in which a run of this size is started."""
        return None

    @staticmethod
    def expected(n: int) -> Any:
        """Return the run's result."""
        raise NotImplementedError

    @staticmethod
    def commits(n: int) -> Counter[str] | None:
        """Return how many outcomes of each step must be recorded, not counting retries and waits.

        None when the run may end before its steps do, so that their outcomes may be missing.
        """
        raise NotImplementedError
