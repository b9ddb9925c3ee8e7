"""Ends a worker process in time after SIGTERM, also if it is process 1 of a container."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from billiard import active_children
from celery import Celery, signals

logger = logging.getLogger("umbel.worker")

#: How long after SIGQUIT the process is ended by force. Threads cannot be stopped, and Celery waits for a task in a
#: child process if it had not seen that task begin when SIGQUIT arrived.
_GIVE_UP_SECONDS = 10.0


def limit_drain(app: Celery, seconds: float) -> None:
    """Let running steps continue for a limited time after the first SIGTERM, then end the worker.

    Steps that still run then are abandoned and run elsewhere. Celery alone would wait for them without a limit.

    Args:
        app: The worker's app; nothing else runs in this process.
        seconds: How long steps may continue.
    """

    def give_up() -> None:
        time.sleep(seconds)
        logger.warning(
            "Steps are still running %g s after SIGTERM (UMBEL_DRAIN_SECONDS); they are abandoned and run elsewhere.",
            seconds,
            extra={"action": "drain_over"},
        )
        app.conf.worker_soft_shutdown_timeout = 0  # the time to finish has passed already
        os.kill(os.getpid(), signal.SIGQUIT)
        time.sleep(_GIVE_UP_SECONDS)
        for child in active_children():
            os.kill(child.pid, signal.SIGKILL)
        os._exit(1)

    def begin(how: str, **_: Any) -> None:
        if how == "Warm":
            threading.Thread(target=give_up, name="umbel-drain", daemon=True).start()

    signals.worker_shutting_down.connect(begin, weak=False)
