"""The processes that `umbel dev` runs, and their restart when the code of the project changes."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from ...local.command_process import CommandProcess
from ..output import note

#: Names of folders without code of the project itself.
_NOT_OWN = {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}
#: Maximum of watched folders, the nearest to the given ones first: a target may be in a home folder.
_MAX_FOLDERS = 300
#: How long nothing may change until a change is complete: editors and version control write several files.
_QUIET_SECONDS = 0.3


#: Prints a line of a program.
Show = Callable[[str], None]


class Watch:
    """Polls the Python files below some folders for changes."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Args:
        folders: The folders to watch; hidden folders in them, virtual environments and the like are skipped.
        """
        self._folders = list(folders)
        self._seen = self._stamps()

    def changed(self) -> list[Path]:
        """Files that were written, added or removed since the last call; waits until the changes have stopped."""
        now = self._stamps()
        if now == self._seen:
            return []
        while True:
            time.sleep(_QUIET_SECONDS)
            later = self._stamps()
            if later == now:
                break
            now = later
        changed = {path for path, _ in self._seen.items() ^ now.items()}
        self._seen = now
        return sorted(changed)

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        found: dict[Path, tuple[int, int]] = {}
        open_ends = deque(self._folders)
        seen: set[Path] = set()
        while open_ends and len(seen) < _MAX_FOLDERS:
            folder = open_ends.popleft()
            if folder in seen:
                continue
            seen.add(folder)
            with suppress(OSError):  # removed meanwhile
                names = {each.name: each for each in os.scandir(folder)}
                if "pyvenv.cfg" in names:
                    continue
                for name, each in names.items():
                    if name.startswith(".") or name in _NOT_OWN:
                        continue
                    if name.endswith(".py"):
                        status = each.stat()
                        found[Path(each.path)] = (status.st_mtime_ns, status.st_size)
                    elif each.is_dir(follow_symlinks=False):
                        open_ends.append(Path(each.path))
        return found


class Programs:
    """Processes for the length of a `with` block; those that load the user's code are restarted when it changes.

    The old process is asked to end and may finish its running steps; the new one starts at once beside it.
    """

    def __init__(self, watch: Watch | None, say: Callable[[str], None]) -> None:
        """Args:
        watch: Watches the code; None means never to restart.
        say: Prints a line.
        """
        self._watch, self._say = watch, say
        self._running: list[CommandProcess] = []
        self._with_code: list[Callable[[Show], CommandProcess]] = []
        self._restarted: list[CommandProcess] = []
        self._ending: list[Thread] = []
        self._is_broken = False
        self._errors: set[str] = set()
        self._printing = Lock()

    def show(self, line: str) -> None:
        """Print a line of a program; an error in the code, which several programs report, only once. Thread-safe."""
        with self._printing:
            if line not in self._errors:
                note(line)
            if line.startswith("Error: "):
                self._errors.add(line)

    def start(self, program: Callable[[Show], CommandProcess], *, has_code: bool = True) -> None:
        """Start a program, which runs until the end of the block; it gets `show` for its output."""
        if has_code:
            self._with_code.append(program)
            self._restarted.append(program(self.show))
        else:
            self._running.append(program(self.show))

    def look(self) -> None:
        """Restart programs whose code has changed, and check that all are running.

        Raises:
            ProcessEnded: A process has ended by itself, for another reason than that its changed code cannot be run.
        """
        if self._watch is not None and (changed := self._watch.changed()):
            self._say(f"{changed[0].name} has changed{_and_more(changed)}: restarting.")
            self._restart()
        elif self._is_broken:
            return
        for process in self._running:
            process.check()
        if any(process.process.poll() is not None for process in self._restarted):
            if not self._ending:
                for process in self._restarted:
                    process.check()
            self._is_broken = True
            self._say("The changed code cannot be run. Correct it; it is loaded again when a file changes.")

    def _restart(self) -> None:
        for process in self._restarted:
            process.ask_to_end()  # now, so that it takes no more work
            ending = Thread(target=process.stop, name="umbel-ending", daemon=True)
            ending.start()
            self._ending.append(ending)
        self._errors.clear()
        self._restarted = [program(self.show) for program in self._with_code]
        self._is_broken = False

    def end(self, *, within_seconds: float | None = None) -> None:
        """End all processes; None gives each the time that it may take."""
        programs = *self._restarted, *self._running
        for program in programs:
            program.ask_to_end()
        until = None if within_seconds is None else time.monotonic() + within_seconds
        for program in programs:
            program.stop(within_seconds=None if until is None else max(0.0, until - time.monotonic()))
        for ending in self._ending if until is None else ():
            ending.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _and_more(changed: list[Path]) -> str:
    return f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
