"""`umbel worker` and other commands as processes that belong to this one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ...orchestration.store.settings import Settings
from ..embedded.child_process import OwnedProcess
from ..embedded.watchdog import Watchdog
from .deployment import worker_command, worker_environment

#: Seconds that another command may take to end: a server cuts open streams sooner.
_STOP_SECONDS = 10.0


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
        self,
        settings: Settings,
        command: str,
        options: Sequence[str],
        watchdog: Watchdog,
        *,
        say: Callable[[str], None],
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            settings: Of the deployment; the process gets exactly these.
            command: Its name.
            options: All its arguments.
            watchdog: Ends it if this process is killed.
            say: Gets each line that it prints, on a thread of its own.
            pass_fds: Descriptors it inherits under the same number.
        """
        super().__init__(
            command,
            [sys.executable, "-m", "umbel.workers.cli", command, *options],
            worker_environment(settings),
            watchdog,
            stop_seconds=_STOP_SECONDS,
            say=say,
            pass_fds=pass_fds,
        )
