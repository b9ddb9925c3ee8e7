"""A run's journal as a timeline, see `tasks/timeline.py`: under this name for the commands and tests that have it."""

from __future__ import annotations

from ..tasks.timeline import Execution, ExecutionOutcome, ended, executions

__all__ = ["Execution", "ExecutionOutcome", "ended", "executions"]
