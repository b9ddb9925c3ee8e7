"""One task message in the asyncio pool, from the time Celery hands it over until its outcome."""

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
TaskOutcome = tuple[int, Any, float | None]


class TaskEndedAbruptly(UmbelError):
    """A task raised an exception that would have ended its process, or the loop that all tasks share."""


def ended_abruptly(task: str, error: BaseException) -> TaskEndedAbruptly:
    """The error for such a task."""
    return TaskEndedAbruptly(
        f"Task {task!r} raised {error!r}, which is no Exception and would end more than this task. The task counts as "
        f"failed, and the worker continues. Raise an Exception instead."
    )


class JobState(Enum):
    """The state of a job; changed only by the hub's thread."""

    WAITING = "waiting"  # not accepted yet: at shutdown its message goes back into the queue
    RUNNING = "running"
    OVER = "over"


class JobPool(Protocol):
    """The pool that executes jobs."""

    def stop_job(self, job: Job) -> None:
        """End a job."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Job:
    """What Celery handed to the pool, and its state. Celery holds it by a weak reference, to call `terminate`."""

    pool: JobPool
    target: Callable[..., Any]
    args: tuple[Any, ...]
    callback: Callable[[TaskOutcome], Any]
    accept_callback: Callable[[int, float], Any] | None
    timeout_callback: Callable[[bool, float], Any] | None
    error_callback: Callable[[Any], Any] | None
    soft_seconds: float | None
    hard_seconds: float | None
    tracer: Any = None  # None: the job runs in a thread
    #: Nothing outside this process learns of its end from Celery, so it may be reported to Celery a moment later.
    is_direct: bool = False

    state: JobState = JobState.WAITING
    #: When it was stopped, on the monotonic clock. From then on, Celery has settled its outcome, and an actual outcome
    #: is ignored unless the job still ends normally.
    stopped_at: float | None = None
    timed_out: bool = False
    task: asyncio.Task[None] | None = None
    thread: InterruptibleThread | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    #: Whether the task's own code is running. Only that is interrupted: what follows it is short and must complete.
    in_body: bool = False
    soft_limit: SoftLimit | None = None

    @property
    def request(self) -> Request | None:
        """Celery's view of the message; None if it did not come from Celery's consumer."""
        found = getattr(self.callback, "__self__", None)
        return found if isinstance(found, Request) else None

    @property
    def label(self) -> str:
        """The task's name and the message's id."""
        return f"{self.args[0]}[{self.args[1]}]"

    def stop(self) -> None:
        """Mark it as stopped."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()

    def terminate(self, signal: int | None = None) -> None:
        """End it; Celery calls this for a revoked task and in a cold shutdown."""
        self.pool.stop_job(self)
