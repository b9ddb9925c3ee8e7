"""The interface for tracing: what surrounds a step's code, and what a run stores about the trace that started it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ...orchestration.model.work_item import Work


class Tracing(Protocol):
    """What traces runs in this process."""

    def begin(self, workflow: str) -> dict[str, Any]:
        """A run of this workflow is about to be started; the result is kept with the run, in its options."""

    def inherited(self) -> dict[str, Any]:
        """The same for a child run of the step that is executed here; may be called several times per child."""

    def attempt(self, work: Work, causes: Iterable[str]) -> AbstractContextManager[str]:
        """A context manager that is entered around the step's code, in the step's context variables.

        Args:
            work: The attempt.
            causes: The spans in which the events that led to the attempt were made, as far as known.

        Returns:
            The context manager. Its value is the mark for the events that the step emits.
        """

    def current(self) -> str:
        """The mark for an event that is sent from outside a step; empty for none."""


_installed: Tracing | None = None


def trace_with(tracing: Tracing | None) -> None:
    """Start tracing in this process and in processes forked from it later; None stops it."""
    global _installed
    _installed = tracing


def tracing() -> Tracing | None:
    """The tracing installed in this process, or None."""
    return _installed
