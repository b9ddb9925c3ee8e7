"""A worker process that belongs to this one: its output is passed on, and it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from ..orchestration.errors import UmbelError
from ..orchestration.settings import Settings
from .local import worker_command, worker_environment
from .watchdog import Watchdog

#: Lines of its output that an error shows.
_TAIL_LINES = 20


class WorkerEnded(UmbelError):
    """The worker process has ended although it was still needed; the text ends with its last lines."""


class WorkerProcess:
    """One `umbel worker` under a watchdog, for the length of a `with` block."""

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
        self._settings, self._watchdog, self._say = settings, watchdog, say
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        command = [*worker_command(list(targets), pool=pool, concurrency=concurrency), *options]
        environment = worker_environment(settings) | {"PYTHONUNBUFFERED": "1"}
        reading, writing = os.pipe()
        try:
            self.process: subprocess.Popen[bytes] = watchdog.spawn(command, env=environment, output=writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._reader = threading.Thread(target=self._pass_on, args=(reading,), name="umbel-worker-output", daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raise when the worker has ended.

        Raises:
            WorkerEnded: It has; with its last words.
        """
        code = self.process.poll()
        if code is not None:
            self._reader.join(1)
            words = "\n".join(self._tail)
            raise WorkerEnded(
                f"The worker process ended with code {code}. "
                + (f"Its last lines:\n{words}" if words else "It said nothing.")
            )

    def mute(self) -> None:
        """Pass on no more of its output."""
        self._say = lambda _: None

    def stop(self) -> None:
        """End it: running steps may finish within the drain time, then it is killed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(self._settings.drain_seconds + 5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)  # with the children of its pool
                self.process.wait()
        self._watchdog.forget(self.process.pid)
        self._reader.join(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _pass_on(self, descriptor: int) -> None:
        with open(descriptor, errors="replace") as lines:
            for line in lines:
                self._tail.append(line.rstrip("\n"))
                self._say(line.rstrip("\n"))
