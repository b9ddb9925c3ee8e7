"""A process that belongs to this one: its output is passed on, and it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from ...orchestration.model.errors import UmbelError
from .watchdog import Watchdog

#: Lines of its output that an error shows.
_TAIL_LINES = 20


class ProcessEnded(UmbelError):
    """A process has ended although it was still needed; the text ends with its last lines."""


class OwnedProcess:
    """One process under a watchdog, for the length of a `with` block."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        watchdog: Watchdog,
        *,
        stop_seconds: float,
        say: Callable[[str], None],
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            name: What it is, for errors: "worker".
            command: Program and arguments.
            environment: Its whole environment.
            watchdog: Ends it if this process is killed.
            stop_seconds: How long it may take to end after SIGTERM.
            say: Gets each line that it prints, on a thread of its own.
            pass_fds: Descriptors it inherits under the same number.
        """
        self.name = name
        self._watchdog, self._stop_seconds, self._say = watchdog, stop_seconds, say
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        reading, writing = os.pipe()
        try:
            self.process: subprocess.Popen[bytes] = watchdog.spawn(
                command, env=dict(environment) | {"PYTHONUNBUFFERED": "1"}, output=writing, pass_fds=pass_fds
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._reader = threading.Thread(target=self._pass_on, args=(reading,), name=f"umbel-{name}-output", daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raise when it has ended.

        Raises:
            ProcessEnded: It has; with its last words.
        """
        code = self.process.poll()
        if code is not None:
            self._reader.join(1)
            words = "\n".join(self._tail)
            raise ProcessEnded(
                f"The {self.name} process ended with code {code}. "
                + (f"Its last lines:\n{words}" if words else "It said nothing.")
            )

    def mute(self) -> None:
        """Pass on no more of its output."""
        self._say = lambda _: None

    def stop(self) -> None:
        """End it: asked first, killed when it takes too long."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)  # with its children
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
