"""`umbel worker` and `umbel serve` as processes that belong to this one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ..orchestration.settings import Settings
from .local import worker_command, worker_environment
from .owned_process import OwnedProcess
from .watchdog import Watchdog

#: Seconds that a server may take to end: its open streams are cut sooner.
_SERVER_STOP_SECONDS = 10.0


class WorkerProcess(OwnedProcess):
    """One `umbel worker`. Running steps may finish within the drain time when it is stopped."""

    def __init__(
        self,
        settings: Settings,
        targets: Sequence[str],
        watchdog: Watchdog,
        *,
        pool: str = "asyncio",
        concurrency: int | None = None,
        options: Sequence[str] = (),
        say: Callable[[str], None],
    ) -> None:
        """Start it.

        Args:
            settings: Of the deployment; the process gets exactly these.
            targets: What it loads.
            watchdog: Ends it if this process is killed.
            pool: Its Celery pool.
            concurrency: Steps at once; None is the pool's default.
            options: Further options of `umbel worker`.
            say: Gets each line that it prints, on a thread of its own.
        """
        command = [*worker_command(list(targets), pool=pool, concurrency=concurrency), *options]
        super().__init__(
            "worker",
            command,
            worker_environment(settings),
            watchdog,
            stop_seconds=settings.drain_seconds + 5,
            say=say,
        )


class CommandProcess(OwnedProcess):
    """Another command of umbel's, such as `umbel serve`."""

    def __init__(
        self, settings: Settings, command: str, options: Sequence[str], watchdog: Watchdog, say: Callable[[str], None]
    ) -> None:
        """Start it; arguments as of `WorkerProcess`, with the command's name and all its arguments."""
        super().__init__(
            command,
            [sys.executable, "-m", "umbel.workers.cli", command, *options],
            worker_environment(settings),
            watchdog,
            stop_seconds=_SERVER_STOP_SECONDS,
            say=say,
        )
