"""The seam for tracing: what happens around a step's code, and what a run remembers of the trace that started it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ...orchestration.model.work_item import Work


class Tracing(Protocol):
    """What traces runs in this process."""

    def begin(self, workflow: str) -> dict[str, Any]:
        """A run of this workflow is about to be started; what is returned is kept with the run, in its options."""

    def inherited(self) -> dict[str, Any]:
        """The same for a child run of the step that is executed here, which may ask several times."""

    def attempt(self, work: Work, causes: Iterable[str]) -> AbstractContextManager[str]:
        """What is entered around the step's code, in its context.

        Args:
            work: The attempt.
            causes: Of the events that led to it, in which spans they were made, as far as that is known.

        Returns:
            What the events are marked with that it emits.
        """

    def current(self) -> str:
        """What an event is marked with that is sent from outside a step; empty for nothing."""


_installed: Tracing | None = None


def trace_with(tracing: Tracing | None) -> None:
    """Trace from now on, in this process and those that are forked from it; None to cease."""
    global _installed
    _installed = tracing


def tracing() -> Tracing | None:
    """What traces in this process; None for nothing."""
    return _installed
