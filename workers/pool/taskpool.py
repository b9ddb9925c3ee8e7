"""A Celery pool that executes many tasks concurrently in one process: coroutines on a loop, plain functions in threads.

Selected by `app.conf.worker_pool = "umbel.workers.pool:AsyncPool"` without `-P`. Settings of the app, all optional:

- `worker_concurrency`: concurrent coroutines. The default is Celery's, the number of processors; 1000 is recommended.
  Celery prefetches this number times `worker_prefetch_multiplier`, which should then be 1.
- `worker_asyncio_threads` (8): concurrent plain tasks.
- `worker_asyncio_loop` ("asyncio"): or "uvloop", if that is installed.
- `worker_asyncio_lag_seconds` (1.0): a task that blocks the loop for longer is named in the log; 0 disables this.

Three kinds of threads:

- The *hub's* thread (the worker's main thread): everything of Celery's, and all changes of a job's `state`. Celery's
  callbacks, and with them acks and task events, run only here, see `CallbackQueue`.
- The *loop's* thread: coroutine tasks, and the timers of all time limits, so that these work while the hub waits for a
  broker.
- *Sync* threads: plain tasks, executed by Celery's own trace function.

Limitations: neither a time limit nor `terminate` ends a coroutine that blocks the loop, or a function that blocks in C
(the worker's shutdown abandons them after a moment). `max_tasks_per_child` and `max_memory_per_child` have no effect,
and `pool_restart` is not supported.
"""

# Line numbers are those of Celery 5.7.0; tests/pool/test_celery_sources.py fails when what they point at has changed.

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import celery
from billiard.einfo import ExceptionInfo
from celery import signals
from celery._state import _task_stack
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks
from celery.worker import state as worker_state

from .callback_queue import CallbackQueue
from .daemon_threads import DaemonThreads
from .interrupts import InterruptibleThread, Stopped
from .job import Job, JobState, TaskEndedAbruptly, ended_abruptly
from .lazy_request import DirectRequest
from .limits import TimeLimits
from .loop import PoolLoop
from .loop_lag import LoopWatch
from .settings import PoolSettings
from .task_context import follow_contexts, own_context
from .tracer import AsyncTracer, is_async

__all__ = ["DEFAULT_CONCURRENCY", "AsyncPool"]

logger = logging.getLogger("umbel.worker")

#: Concurrent coroutines in a worker that umbel starts.
DEFAULT_CONCURRENCY = 1000

#: Seconds that a shutdown waits for stopped tasks before it abandons them.
_GIVE_UP_SECONDS = 5.0

#: Threads that store results and send messages when tasks end.
_STORE_THREADS = 4


class AsyncPool(BasePool):  # type: ignore[misc]  # Celery is untyped
    """See the module's documentation."""

    #: The hub's thread must not wait for tasks while it is in a signal handler (celery/worker/worker.py:318).
    signal_safe = False
    body_can_be_buffer = True
    #: Jobs that exceed the limit wait in the pool; the prefetch count bounds their number.
    uses_semaphore = False

    app: celery.Celery
    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hostname: str = self.options["initargs"][1]
        self._soft, self._hard = self.options.get("soft_timeout"), self.options.get("timeout")
        self._settings = PoolSettings.of(self.app)
        self._hub: Any = None
        self._tracers: dict[str, AsyncTracer | None] = {}
        self._running: set[Job] = set()
        self._active = self._active_sync = 0
        self._waiting: deque[Job] = deque()
        self._waiting_sync: deque[Job] = deque()
        self._inbox: deque[Job] = deque()
        self._inbox_woken = False
        self._is_stopping = self._has_stopped = False

    # -- from start to stop ------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Start the loop and be ready for tasks.

        Raises:
            ConfigurationError: The app's settings for this pool cannot be met.
        """
        follow_contexts(_task_stack)
        self._loop = PoolLoop(self._settings.loop)
        self._callbacks = CallbackQueue(self._finish, self._loop, self._is_pressing)
        self._limits = TimeLimits(self._loop, self._callbacks)
        self._sync_threads = DaemonThreads(self._settings.threads, "umbel-task")
        self._store_threads = DaemonThreads(_STORE_THREADS, "umbel-result")
        if self._settings.lag_seconds:
            self._watch = LoopWatch(self._loop, lambda: self._active > 0, self._settings.lag_seconds)
        signals.worker_process_init.send(sender=self._hostname)  # as in the solo pool: this process executes tasks

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where coroutine tasks run."""
        return self._loop.loop

    def register_with_event_loop(self, hub: Any) -> None:
        """Let outcomes wake the hub; called again after each reconnect, which drops all readers."""
        self._hub = hub
        self._callbacks.register(hub)

    def report(self) -> None:
        """Report to Celery which tasks have ended; called in the hub's thread before code there depends on it."""
        if not self._has_stopped:
            self._callbacks.report()

    def _is_pressing(self) -> bool:
        """Whether a job's end lets another one begin, or lets the worker take another message or end."""
        return bool(self._waiting) or 2 * self._active >= self.limit or worker_state.should_stop is not None

    def on_close(self) -> None:
        """Drop the waiting jobs: they were not accepted, and their messages go back into the queue."""
        self._forget_waiting()

    def flush(self) -> None:
        """Drop the waiting jobs: the connection was lost, and their messages with it."""
        self._forget_waiting()

    def on_stop(self) -> None:
        """Wait for running jobs; in a cold shutdown, for `_GIVE_UP_SECONDS` at most.

        A signal handler may also call it, even while it is already waiting (celery/apps/worker.py:486).
        """
        self._is_stopping = True
        self._forget_waiting()
        if self._running and not self._has_stopped:
            logger.info("Waiting for running tasks to end: %d.", len(self._running), extra={"action": "pool_draining"})
        give_up_at: float | None = None
        while not self._has_stopped:
            self._callbacks.receive()
            self._serve_hub()
            now = time.monotonic()
            if worker_state.should_terminate and give_up_at is None:
                give_up_at = now + _GIVE_UP_SECONDS
            left = [job for job in self._running if now - (job.stopped_at or now) < _GIVE_UP_SECONDS]
            if not left or (give_up_at is not None and now >= give_up_at):
                break
            self._callbacks.wait(0.2)
        if not self._has_stopped:
            self._has_stopped = True
            self._end_threads()

    def on_terminate(self) -> None:
        """Stop the running jobs."""
        for job in tuple(self._running):
            self.stop_job(job)
        self.on_stop()

    def _serve_hub(self) -> None:
        """Send acks and heartbeats, which the hub of a draining worker no longer does."""
        if self._hub is None or self._has_stopped:
            return
        try:
            self._hub.fire_timers()
            _run_ready_callbacks(self._hub)
        except Exception:
            logger.warning(
                "A timer or callback of the draining worker failed; continuing.",
                exc_info=True,
                extra={"action": "pool_error"},
            )

    def _end_threads(self) -> None:
        for job in self._running:
            job.stop()
            logger.warning("%s does not end and is abandoned.", job.label, extra={"action": "task_given_up"})
        if self._settings.lag_seconds:
            self._watch.stop()
        self._loop.end(2.0)
        self._sync_threads.shutdown()
        self._store_threads.shutdown()
        self._callbacks.close()
        signals.worker_process_shutdown.send(sender=self._hostname, pid=os.getpid(), exitcode=0)

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_sync.clear()

    # -- accepting tasks: the hub's thread ----------------------------------------------------------------------------

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        callback: Any = None,
        accept_callback: Any = None,
        timeout_callback: Any = None,
        error_callback: Any = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Job:
        """Execute a message, or queue it in the pool; see celery/worker/request.py:1003."""
        soft, hard = soft_timeout or self._soft, timeout or self._hard
        if soft and hard and soft >= hard:
            soft = None
        job = Job(self, target, args, callback, accept_callback, timeout_callback, error_callback, soft or None, hard)
        with self._callbacks.running:
            if self._is_stopping:
                return job  # not accepted: its message goes back into the queue
            job.tracer, job.is_direct = self._tracer_of(job), isinstance(job.request, DirectRequest)
            if job.tracer is not None:
                if self._active < self.limit:
                    self._begin(job)
                else:
                    self._waiting.append(job)
            elif self._active_sync < self._settings.threads:
                self._begin(job)
            else:
                self._waiting_sync.append(job)
        return job

    def _tracer_of(self, job: Job) -> AsyncTracer | None:
        request = job.request
        return None if request is None else self.tracer_of(job.args[0], request.task)

    def tracer_of(self, name: str, task: Any) -> AsyncTracer | None:
        """The tracer that executes a task on the loop; None if it is executed in a thread."""
        if name not in self._tracers:
            follow_contexts(task.request_stack)
            traced = AsyncTracer(task, self.app, self._hostname, self._store_threads) if is_async(task) else None
            self._tracers[name] = traced
        return self._tracers[name]

    def _begin(self, job: Job) -> None:
        job.state = JobState.RUNNING
        self._running.add(job)
        if job.tracer is not None:
            self._active += 1
        else:
            self._active_sync += 1
        if job.accept_callback is not None:
            try:
                job.accept_callback(os.getpid(), time.monotonic())  # it stops a job that was revoked meanwhile
            except Exception as error:  # such as a lost connection: the job counts as accepted
                logger.error(
                    "A callback at the start of %s failed: %r",
                    job.label,
                    error,
                    exc_info=True,
                    extra={"action": "pool_error"},
                )
        if job.stopped_at is not None:
            self._finish(job)
        elif job.tracer is None:
            job.thread = InterruptibleThread()
            if job.soft_seconds or job.hard_seconds:
                self._loop.call(self._limits.begin, job)
            self._sync_threads.submit(self._run_in_thread, job)
        else:
            self._inbox.append(job)
            if not self._inbox_woken:
                self._inbox_woken = True
                self._loop.call(self._empty_inbox)

    def _finish(self, job: Job) -> None:
        """Count a job as over, and start the next one that waits."""
        if job.state is JobState.OVER:
            return
        job.state = JobState.OVER
        self._running.discard(job)
        if job.tracer is not None:
            self._active -= 1
            if self._waiting and self._active < self.limit:
                self._begin(self._waiting.popleft())
        else:
            self._active_sync -= 1
            if self._waiting_sync and self._active_sync < self._settings.threads:
                self._begin(self._waiting_sync.popleft())

    # -- coroutines: the loop's thread -------------------------------------------------------------------------------

    def _empty_inbox(self) -> None:
        self._inbox_woken = False
        while self._inbox:
            job = self._inbox.popleft()
            if job.soft_seconds or job.hard_seconds:
                self._limits.begin(job)
            job.task = self.loop.create_task(self._run(job), name=job.label, context=own_context())

    async def _run(self, job: Job) -> None:
        try:
            outcome = await job.tracer.trace(job)
        except asyncio.CancelledError:
            if job.stopped_at is not None:
                self._callbacks.ended(job, None)
            else:  # in one of Celery's hooks
                self._callbacks.ended(job, job.error_callback, ExceptionInfo())
        except BaseException as error:  # SystemExit would end the loop
            self._callbacks.ended(job, job.error_callback, _info(job, error))
        else:
            self._callbacks.ended(job, job.callback, outcome)
        finally:
            self._limits.end(job)

    # -- plain functions: sync threads -------------------------------------------------------------------------------

    def _run_in_thread(self, job: Job) -> None:
        assert job.thread is not None
        request = job.request
        args = job.args
        if request is not None:  # its body was decoded when it arrived
            args = (*args[:3], request._payload, None, None)

        def execute() -> Any:
            if job.stopped_at is not None:
                raise Stopped
            return job.target(*args)

        try:
            outcome = job.thread.call(execute)
        except Stopped:
            self._callbacks.ended(job, None)
        except BaseException as error:
            self._callbacks.ended(job, job.error_callback, _info(job, error))
        else:
            self._callbacks.ended(job, job.callback, outcome)
        if job.soft_seconds or job.hard_seconds:
            self._loop.call(self._limits.end, job)

    # -- ending tasks: the hub's thread, also in a signal handler ----------------------------------------------------

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Do nothing: all jobs share this process. Celery then calls `Job.terminate`, celery/worker/request.py:423."""

    def stop_job(self, job: Job) -> None:
        """End a job whose outcome Celery has settled: it was revoked, or goes back into the queue."""
        if job.state is JobState.OVER or job.stopped_at is not None:
            return
        job.stop()
        if job.state is JobState.RUNNING:
            self._loop.call(self._limits.interrupt, job)
            return
        waiting = self._waiting if job.tracer is not None else self._waiting_sync
        if job in waiting:
            waiting.remove(job)
            self._begin(job)  # Celery announces only accepted jobs as revoked, celery/worker/request.py:536

    # -- information about the pool ----------------------------------------------------------------------------------

    def grow(self, n: int = 1) -> None:
        """Allow more concurrent coroutines."""
        self.limit += n
        while self._waiting and self._active < self.limit:
            self._begin(self._waiting.popleft())

    def shrink(self, n: int = 1) -> None:
        """Allow fewer concurrent coroutines."""
        self.limit = max(1, self.limit - n)

    @property
    def num_pending(self) -> int:
        """Messages that wait in the pool."""
        return len(self._waiting) + len(self._waiting_sync)

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "processes": [os.getpid()],
            "threads": self._settings.threads,
            "active": self._active,
            "active-threads": self._active_sync,
            "pending": self.num_pending,
            "loop": self._settings.loop,
            "timeouts": (self._soft or 0, self._hard or 0),
        }


def _info(job: Job, error: BaseException) -> ExceptionInfo:
    """The exception being handled, in Celery's form; one that would end the worker becomes a failure of the task."""
    if isinstance(error, Exception):
        return ExceptionInfo()
    try:
        raise ended_abruptly(job.args[0], error) from error
    except TaskEndedAbruptly:
        return ExceptionInfo()
