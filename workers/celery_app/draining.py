"""The end of a worker process on SIGTERM: in time, and also where it is process 1 of a container."""

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

#: After a worker was asked to give up what still runs, so much later it ends whatever runs: threads cannot be stopped,
#: and Celery waits for a task in a child process that it had not yet seen begin when it was asked.
_GIVE_UP_SECONDS = 10.0


def limit_drain(app: Celery, seconds: float) -> None:
    """Let running steps go on for so long after the first SIGTERM, and then end the worker.

    What still runs is given up and runs elsewhere. Celery would wait for it however long it takes.

    Args:
        app: The worker's; nothing else runs in this process.
        seconds: How long steps may go on.
    """

    def give_up() -> None:
        time.sleep(seconds)
        logger.warning(
            "Steps are still running %g s after SIGTERM (UMBEL_DRAIN_SECONDS); they are abandoned and run elsewhere.",
            seconds,
            extra={"action": "drain_over"},
        )
        app.conf.worker_soft_shutdown_timeout = 0  # it has been waited for already
        os.kill(os.getpid(), signal.SIGQUIT)
        time.sleep(_GIVE_UP_SECONDS)
        for child in active_children():
            os.kill(child.pid, signal.SIGKILL)
        os._exit(1)

    def begin(how: str, **_: Any) -> None:
        if how == "Warm":
            threading.Thread(target=give_up, name="umbel-drain", daemon=True).start()

    signals.worker_shutting_down.connect(begin, weak=False)
