"""Ends a worker or a pool child after a number of steps, or when it uses too much memory: for code that leaks."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from .app import Installation

logger = logging.getLogger("umbel.worker")

#: Interval between checks of the step count and the memory.
_LOOK_SECONDS = 1.0
_STATM = Path("/proc/self/statm")


def recycle(installation: Installation, *, max_steps: int | None, max_memory_mb: int | None, prefork: bool) -> None:
    """Limit how many steps a process executes and how much memory it uses. To be called before the worker starts.

    In the prefork pool, Celery replaces a child that has reached a limit after its current step. In the other pools,
    the worker itself ends as after SIGTERM, within `UMBEL_DRAIN_SECONDS`; something has to start another one.
    *Promise:* running steps finish, or are executed again elsewhere; nothing is lost.
    """
    if prefork:
        conf = installation.app.conf
        conf.worker_max_tasks_per_child = max_steps
        conf.worker_max_memory_per_child = None if max_memory_mb is None else max_memory_mb * 1024
    elif max_steps is not None or max_memory_mb is not None:
        arguments = (installation, max_steps, max_memory_mb)
        threading.Thread(target=_end_in_time, args=arguments, name="umbel-recycle", daemon=True).start()


def _end_in_time(installation: Installation, max_steps: int | None, max_memory_mb: int | None) -> None:
    while True:
        time.sleep(_LOOK_SECONDS)
        steps, megabytes = installation.steps_begun, memory_mb()
        if (max_steps is not None and steps >= max_steps) or (max_memory_mb is not None and megabytes >= max_memory_mb):
            logger.info(
                "this worker ends after %d steps with %d MB (--max-steps, --max-memory); start another one",
                steps,
                megabytes,
                extra={"action": "worker_recycled"},
            )
            os.kill(os.getpid(), signal.SIGTERM)
            return


def memory_mb() -> int:
    """Resident memory of this process in MB; its peak where the system does not report the current value."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize() >> 20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak >> (20 if sys.platform == "darwin" else 10)
