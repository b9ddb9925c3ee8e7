"""Writes the log lines of a process's steps to Redis: with their commits, and once a second while they run.

*Promise.* No step waits for this or fails because of it. A part that is written twice is kept once. Lines get lost in
two cases: a killed process loses those that its running steps have logged in the last second, and an outage of Redis
longer than `PATIENCE_SECONDS` loses those that were to be written in it.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from ...orchestration.model.errors import UmbelError
from ...orchestration.model.work_item import Work
from ...orchestration.store.verbs import Store
from .gathered import StepLog

logger = logging.getLogger("umbel.logs")

#: How long lines of a running step are buffered.
GATHER_SECONDS = 1.0
#: How long a write is retried while Redis does not answer.
PATIENCE_SECONDS = 10.0


class StepLogs:
    """The logs of the attempts that a process executes. Lines may be added from any thread."""

    def __init__(self, side: Store) -> None:
        """Args:
        side: The store for writes while steps run, on a portal whose loop steps do not block.
        """
        self.level = logging.getLevelNamesMapping()[side.settings.step_logs]
        self._room, self._side = side.settings.step_log_max_bytes, side
        self._lock = threading.Lock()
        self._open: set[StepLog] = set()
        self._is_ticking = False
        self._writing: set[asyncio.Task[None]] = set()

    def add(self, log: StepLog | None, work: Work, at: int, level: str, name: str, text: str) -> StepLog:
        """Add a line to the log of an attempt; its first line creates the log."""
        with self._lock:
            log = log or StepLog(work, self._room)
            log.add(at, level, name, text)
            self._open.add(log)
            begins, self._is_ticking = not self._is_ticking, True
        if begins:
            self._side.connection.portal.loop.call_soon_threadsafe(self._begin)
        return log

    async def end(self, log: StepLog, store: Store) -> None:
        """Write what is left when an attempt ends, on the same connection as its commit and ahead of it."""
        with self._lock:
            self._open.discard(log)
            taken = log.take(is_over=True)
        if taken is not None:
            self._keep(asyncio.get_running_loop().create_task(self._write(store, log, *taken)))
            await asyncio.sleep(0)  # the write has begun; its reply is not awaited

    def _begin(self) -> None:
        self._keep(asyncio.get_running_loop().create_task(self._tick()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _tick(self) -> None:
        """Write the lines of running steps, until there are no more."""
        while True:
            await asyncio.sleep(GATHER_SECONDS)
            with self._lock:
                found = [(log, log.take()) for log in self._open]
                self._open.clear()
                self._is_ticking = bool(found)
            if not found:
                return
            await asyncio.gather(*(self._write(self._side, log, *taken) for log, taken in found if taken is not None))

    async def _write(self, store: Store, log: StepLog, at: int, lines: bytes) -> None:
        try:
            await store.log(log.work.run_id, at, lines, patience_seconds=PATIENCE_SECONDS)
        except UmbelError as error:
            text = "cannot store the log records of step %s of run %s: %s"
            about = {"action": "step_log_lost", "run_id": log.work.run_id, "step": log.work.step}
            logger.warning(text, log.work.step, log.work.run_id, error, extra=about)
