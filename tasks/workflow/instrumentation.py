"""The seam for what is put around the steps of a class of workflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Instrumentation(Protocol):
    """What is done around the steps of workflows, and what their runs keep for that among their options."""

    def run_options(self, workflow: object) -> dict[str, Any]:
        """A run of this workflow is about to be started: what it keeps, as JSON."""

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What is called instead of a step's function: a coroutine function if that is one."""
