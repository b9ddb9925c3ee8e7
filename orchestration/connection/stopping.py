"""asyncio tasks that their process stops. Every other cancellation of a task comes from the code that runs in it."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

_stopped: WeakSet[asyncio.Task[Any]] = WeakSet()


def mark_stopped(task: asyncio.Task[Any]) -> None:
    """Record that a task is about to be cancelled because its loop, its worker or its caller ends."""
    _stopped.add(task)


def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task because its loop, its worker or its caller ends. Call it on the task's loop."""
    _stopped.add(task)
    task.cancel()


def is_stopped(task: asyncio.Task[Any]) -> bool:
    """Whether the task was stopped, however it reacted."""
    return task in _stopped
