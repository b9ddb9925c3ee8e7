"""Time limits of jobs, and the interruption of jobs. All of it runs in the loop's thread."""

from __future__ import annotations

from celery.exceptions import SoftTimeLimitExceeded

from ...orchestration.connection.stopping import stop
from ...tasks.attempt.running import TIME_LIMIT
from .callback_queue import CallbackQueue
from .interrupts import Stopped
from .job import Job, JobState
from .loop import PoolLoop


class TimeLimits:
    """Timers on the loop, not on the hub, so they also work while the hub waits for an unreachable broker."""

    def __init__(self, loop: PoolLoop, callbacks: CallbackQueue) -> None:
        """Make it.

        Args:
            loop: Where the timers run.
            callbacks: Reports to Celery which limits were reached.
        """
        self._loop, self._callbacks = loop.loop, callbacks

    def begin(self, job: Job) -> None:
        """Start a job's timers, if it has limits."""
        if job.soft_seconds:
            job.timers.append(self._loop.call_later(job.soft_seconds, self._on_soft, job))
        if job.hard_seconds:
            job.timers.append(self._loop.call_later(job.hard_seconds, self._on_hard, job))

    def end(self, job: Job) -> None:
        """Stop a job's timers."""
        for timer in job.timers:
            timer.cancel()

    def interrupt(self, job: Job) -> None:
        """Interrupt what a job executes; a coroutine's cancellation says if its hard limit was the reason."""
        if job.thread is not None:
            job.thread.interrupt(Stopped)
        elif job.task is not None and job.in_body:
            if job.timed_out:
                job.task.cancel(TIME_LIMIT)
            else:
                stop(job.task)

    def _on_soft(self, job: Job) -> None:
        if job.state is not JobState.RUNNING or job.stopped_at is not None:
            return
        if job.thread is not None:
            self._callbacks.limit_reached(job, is_soft=True, seconds=job.soft_seconds)
            job.thread.interrupt(SoftTimeLimitExceeded)
        elif job.in_body and job.soft_limit is not None:
            self._callbacks.limit_reached(job, is_soft=True, seconds=job.soft_seconds)
            job.soft_limit.reach(job.soft_seconds or 0)

    def _on_hard(self, job: Job) -> None:
        if job.state is not JobState.RUNNING or job.stopped_at is not None:
            return
        job.timed_out = True
        job.stop()
        self._callbacks.limit_reached(job, is_soft=False, seconds=job.hard_seconds)
        self.interrupt(job)
