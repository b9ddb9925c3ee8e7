"""Time limits of jobs, and cutting a job short. All of it runs in the loop's thread."""

from __future__ import annotations

from celery.exceptions import SoftTimeLimitExceeded

from ...tasks.attempt.running import TIME_LIMIT
from .callback_queue import CallbackQueue
from .interrupts import Stopped
from .job import Job, State
from .loop import PoolLoop


class TimeLimits:
    """Timers on the loop, not on the hub: they hold also while the hub waits for a broker that is gone."""

    def __init__(self, loop: PoolLoop, outbox: CallbackQueue) -> None:
        """Make it.

        Args:
            loop: Where the timers run.
            outbox: Tells Celery of limits that were reached.
        """
        self._loop, self._outbox = loop.loop, outbox

    def begin(self, job: Job) -> None:
        """Start a job's timers, if it has limits."""
        if job.soft_seconds:
            job.timers.append(self._loop.call_later(job.soft_seconds, self._on_soft, job))
        if job.hard_seconds:
            job.timers.append(self._loop.call_later(job.hard_seconds, self._on_hard, job))

    def end(self, job: Job) -> None:
        """Its limits no longer matter."""
        for timer in job.timers:
            timer.cancel()

    def cut_short(self, job: Job, why: str | None = None) -> None:
        """End what a job does, wherever it is; a coroutine that wants to know is told why."""
        if job.thread is not None:
            job.thread.interrupt(Stopped)
        elif job.task is not None and job.in_body:
            job.task.cancel(why)

    def _on_soft(self, job: Job) -> None:
        if job.state is not State.RUNNING or job.stopped_at is not None:
            return
        if job.thread is not None:
            self._outbox.limit_reached(job, is_soft=True, seconds=job.soft_seconds)
            job.thread.interrupt(SoftTimeLimitExceeded)
        elif job.in_body and job.soft_limit is not None:
            self._outbox.limit_reached(job, is_soft=True, seconds=job.soft_seconds)
            job.soft_limit.reach(job.soft_seconds or 0)

    def _on_hard(self, job: Job) -> None:
        if job.state is not State.RUNNING or job.stopped_at is not None:
            return
        job.timed_out = True
        job.stop()
        self._outbox.limit_reached(job, is_soft=False, seconds=job.hard_seconds)
        self.cut_short(job, TIME_LIMIT)
