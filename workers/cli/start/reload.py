"""What `umbel dev` runs, and how it is started anew when the code of the project was changed."""

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

#: Folders that are no code of the project's own.
_NOT_OWN = {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}
#: Folders that are watched at most, those nearest to the given ones: a target may lie in a home folder.
_MAX_FOLDERS = 300
#: After a change it has to be quiet for so long: editors and version control write several files.
_QUIET_SECONDS = 0.3


#: Prints a line of a program.
Show = Callable[[str], None]


class Watch:
    """The Python files below some folders, looked at again and again."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Args:
        folders: What is watched; hidden folders in them, virtual environments and the like are left out.
        """
        self._folders = list(folders)
        self._seen = self._stamps()

    def changed(self) -> list[Path]:
        """Files that were written, added or removed since this was asked before; waits until that has ended."""
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
    """Processes for the length of a `with` block, of which those with code of the user's are restarted when it changes.

    The old process is asked to end and may finish its running steps; the new one starts at once beside it.
    """

    def __init__(self, watch: Watch | None, say: Callable[[str], None]) -> None:
        """Args:
        watch: The code; None is never to restart.
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
        """Print a line of a program; an error of the code, which all programs with it have, once. On any thread."""
        with self._printing:
            if line not in self._errors:
                note(line)
            if line.startswith("Error: "):
                self._errors.add(line)

    def start(self, program: Callable[[Show], CommandProcess], *, has_code: bool = True) -> None:
        """Start a program, which stays until the end of the block; it is given `show` for what it prints."""
        if has_code:
            self._with_code.append(program)
            self._restarted.append(program(self.show))
        else:
            self._running.append(program(self.show))

    def look(self) -> None:
        """Restart what has old code, and see that all is running.

        Raises:
            ProcessEnded: A process has ended by itself, and not because its new code cannot be loaded.
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
        """End all; None is as long as each may take."""
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
