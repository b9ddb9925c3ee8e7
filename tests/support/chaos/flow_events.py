"""Events of the chaos workflows, and what each workflow says about itself."""

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
    """What a chaos step raises on purpose."""


class Chaotic(Workflow):
    """Says what a run of it must come to."""

    KIND: ClassVar[str] = ""
    #: Of its runs.
    OPTIONS: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def session(n: int) -> str | None:
        """The session that a run of this size is started in."""
        return None

    @staticmethod
    def expected(n: int) -> Any:
        """The run's result."""
        raise NotImplementedError

    @staticmethod
    def commits(n: int) -> Counter[str] | None:
        """How many outcomes of each step must be recorded that are neither a retry nor a wait.

        None when the end may overtake steps: what they did is then not wanted any more.
        """
        raise NotImplementedError
