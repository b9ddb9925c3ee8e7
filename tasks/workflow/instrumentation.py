"""The interface for code that wraps the steps of a workflow class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Instrumentation(Protocol):
    """Wraps the steps of workflows, and stores what it needs in the options of their runs."""

    def run_options(self, workflow: object) -> dict[str, Any]:
        """The options, as JSON values, to store with a run of this workflow that is about to be started."""

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function to call instead of a step's function; a coroutine function if the step's function is one."""
