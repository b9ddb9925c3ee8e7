"""One task message in the asyncio pool, from Celery's handing it over to its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from celery.worker.request import Request

from ...orchestration.model.errors import UmbelError
from .interrupts import InterruptibleThread, SoftLimit

#: How a job ended, as Celery's `on_success` takes it: (failed, result or ExceptionInfo, runtime in seconds).
Outcome = tuple[int, Any, float | None]


class TaskEndedAbruptly(UmbelError):
    """A task raised what would have ended its whole process, or the loop that all tasks share."""


def ended_abruptly(task: str, error: BaseException) -> TaskEndedAbruptly:
    """Tell of it."""
    return TaskEndedAbruptly(
        f"Task {task!r} raised {error!r}, which is no Exception and would end more than this task. The worker goes on, "
        f"and the task counts as failed. Raise an Exception instead."
    )


class State(Enum):
    """How far a job is; kept by the hub's thread."""

    WAITING = "waiting"  # not accepted: its message would go back into the queue
    RUNNING = "running"
    OVER = "over"


class Owner(Protocol):
    """Who carries jobs out."""

    def stop_job(self, job: Job) -> None:
        """End a job."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Job:
    """What Celery handed to the pool, and how far it is. Celery holds it by a weak reference, to call `terminate`."""

    owner: Owner
    target: Callable[..., Any]
    args: tuple[Any, ...]
    callback: Callable[[Outcome], Any]
    accept_callback: Callable[[int, float], Any] | None
    timeout_callback: Callable[[bool, float], Any] | None
    error_callback: Callable[[Any], Any] | None
    soft_seconds: float | None
    hard_seconds: float | None
    tracer: Any = None  # None: in a thread

    state: State = State.WAITING
    #: When it was told to stop, on the monotonic clock. From then on Celery knows how it ended, and its outcome matters
    #: no more, unless it comes to a regular end all the same.
    stopped_at: float | None = None
    timed_out: bool = False
    task: asyncio.Task[None] | None = None
    thread: InterruptibleThread | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    #: Only the task's own code is cut short: what comes after it takes a moment and must be whole.
    in_body: bool = False
    soft_limit: SoftLimit | None = None

    @property
    def request(self) -> Request | None:
        """Celery's view of the message; None if not Celery's consumer handed it over."""
        found = getattr(self.callback, "__self__", None)
        return found if isinstance(found, Request) else None

    @property
    def label(self) -> str:
        """The task's name and the message's id."""
        return f"{self.args[0]}[{self.args[1]}]"

    def stop(self) -> None:
        """Mark it as told to stop."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()

    def terminate(self, signal: int | None = None) -> None:
        """End it; Celery calls this for a revoked task and in a cold shutdown."""
        self.owner.stop_job(self)
