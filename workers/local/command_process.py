"""`umbel worker` and other commands of umbel as child processes."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from ...orchestration.connection.settings import Settings
from ...orchestration.model.errors import UmbelError
from ...tasks.llama_index.install import is_installed
from ..embedded.supervisor import Supervisor

#: Seconds that a command may take to end after SIGTERM: a server cuts open streams sooner.
_STOP_SECONDS = 10.0
#: Written into a process's output pipe. Once it has been read, everything that was printed before has been read, too.
_MARK = b"\0umbel has read until here\0\n"
#: Seconds to wait until that has been read.
_DRAIN_SECONDS = 5.0
#: Lines of its output that an error shows.
_TAIL_LINES = 20


class ProcessEnded(UmbelError):
    """A process ended although it was still needed; the text ends with its last lines of output."""


class CommandProcess:
    """A command of umbel such as `umbel serve`, for the length of a `with` block."""

    def __init__(
        self,
        settings: Settings,
        command: str,
        options: Sequence[str],
        supervisor: Supervisor,
        *,
        say: Callable[[str], None],
        pass_fds: Sequence[int] = (),
        stop_seconds: float = _STOP_SECONDS,
    ) -> None:
        """Start it.

        Args:
            settings: The settings of the deployment; the process gets exactly these.
            command: The command's name.
            options: All its arguments.
            supervisor: Ends it if this process is killed.
            say: Called with each line that it prints, on a thread of its own.
            pass_fds: Descriptors it inherits under the same number.
            stop_seconds: How long it may take to end after SIGTERM.
        """
        self._name, self._supervisor, self._stop_seconds, self._say = command, supervisor, stop_seconds, say
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        reading, writing = os.pipe()
        self._writing: int | None = None
        self._drained = threading.Event()
        self._is_asked_to_end = False
        try:
            self.process = supervisor.spawn(
                _command_line(command, options),
                env=process_environment(settings) | {"PYTHONUNBUFFERED": "1"},
                output=writing,
                pass_fds=pass_fds,
            )
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        self._writing = writing
        self._reader = threading.Thread(
            target=self._pass_on, args=(reading,), name=f"umbel-{command}-output", daemon=True
        )
        self._reader.start()

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            ProcessEnded: It has ended; the text has its last lines of output.
        """
        code = self.process.poll()
        if code is not None:
            self._close()
            lines = "\n".join(self._tail)
            raise ProcessEnded(
                f"The {self._name} process ended with code {code}. "
                + (f"Its last lines:\n{lines}" if lines else "It printed nothing.")
            )

    def mute(self) -> None:
        """Pass on what it has printed until now, and nothing after that."""
        if self._writing is not None:
            os.write(self._writing, _MARK)
            self._drained.wait(_DRAIN_SECONDS)
        self._say = lambda _: None

    def ask_to_end(self) -> None:
        """Send SIGTERM, only once: Celery prints a shutdown message for each one."""
        if not self._is_asked_to_end:
            self._is_asked_to_end = True
            self.process.terminate()

    def stop(self, *, within_seconds: float | None = None) -> None:
        """End it by SIGTERM, or by SIGKILL if it takes too long; None means the time set in the constructor."""
        self.ask_to_end()
        patience = self._stop_seconds if within_seconds is None else within_seconds
        self._supervisor.outwait(self.process, within_seconds=patience)
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _close(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None
        self._reader.join(1)

    def _pass_on(self, descriptor: int) -> None:
        with open(descriptor, errors="replace", newline="\n") as lines:
            for line in lines:
                text, mark, _ = line.rstrip("\n").partition(_MARK.decode().rstrip("\n"))
                if text or not mark:
                    self._tail.append(text)
                    self._say(text)
                if mark:
                    self._drained.set()


class WorkerProcess(CommandProcess):
    """One `umbel worker`. When it is stopped, running steps may finish within the drain time."""

    def __init__(
        self,
        settings: Settings,
        targets: Sequence[str],
        supervisor: Supervisor,
        *,
        pool: str = "asyncio",
        concurrency: int | None = None,
        options: Sequence[str] = (),
        say: Callable[[str], None],
    ) -> None:
        """Start it.

        Args:
            settings: As for any command.
            targets: The targets that it loads.
            supervisor: As for any command.
            pool: Its Celery pool.
            concurrency: Maximum of concurrent steps; None means the pool's default.
            options: Further options of `umbel worker`.
            say: As for any command.
        """
        super().__init__(
            settings,
            "worker",
            [*_worker_options(targets, pool, concurrency), *options],
            supervisor,
            say=say,
            stop_seconds=settings.drain_seconds + 5,
        )


def worker_command(targets: Sequence[str], *, pool: str, concurrency: int | None) -> list[str]:
    """The command line of a worker process."""
    return _command_line("worker", _worker_options(targets, pool, concurrency))


def process_environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a process exactly these settings."""
    environment = {name: value for name, value in os.environ.items() if not _is_setting(name)}
    for field, value in settings.model_dump(exclude_defaults=True).items():
        if value is not None:
            environment[f"UMBEL_{field.upper()}"] = str(value)
    paths = [path or os.getcwd() for path in sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return environment


def _command_line(command: str, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "umbel.workers.cli", command, *options]


def _worker_options(targets: Sequence[str], pool: str, concurrency: int | None) -> list[str]:
    options = [*targets, "--pool", pool, *(["--llama-index"] if is_installed() else [])]
    return options if concurrency is None else [*options, "--concurrency", str(concurrency)]


def _is_setting(variable: str) -> bool:
    return variable.startswith("UMBEL_") and variable.removeprefix("UMBEL_").lower() in Settings.model_fields
