"""What steps print: whole lines with the name of their step, even if many steps print concurrently."""

from __future__ import annotations

import io
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from ...tasks.context.ctx import Context, current_context
from ...tasks.context.step_fields import keep_printed

logger = logging.getLogger("umbel.output")

#: An unfinished line that is longer than this is passed on as it is.
_MAX_CHARACTERS = 64 * 1024


class StepOutput(io.TextIOBase):
    """Replaces `sys.stdout` or `sys.stderr` in a worker.

    Each step's text is buffered until its line ends, or until `print(…, end="")` has ended. What is written outside of
    steps is buffered per thread.
    """

    def __init__(self, say: Callable[[str, dict[str, Any]], None]) -> None:
        """Args:
        say: Called with each line and the fields of a log record about it.
        """
        self._say = say
        self._lock = threading.Lock()
        self._of_steps: weakref.WeakKeyDictionary[Context[Any], list[str]] = weakref.WeakKeyDictionary()
        self._of_threads = threading.local()

    encoding = "utf-8"
    errors = "backslashreplace"

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Buffer text, and pass on the lines that have ended."""
        if getattr(self._of_threads, "is_saying", False):  # a failing log handler reports its error here
            stream: TextIO | None = sys.__stderr__
            return stream.write(text) if stream is not None else 0
        context = current_context.get()
        begun = self._begun(context)
        *lines, rest = ("".join(begun) + text).split("\n")
        if rest and (not text or len(rest) > _MAX_CHARACTERS):
            lines, rest = [*lines, rest], ""
        begun[:] = [rest] if rest else []
        for line in lines:
            self._pass_on(line, context)
        return len(text)

    def _begun(self, context: Context[Any] | None) -> list[str]:
        """The buffer with the unfinished line of this step, or of this thread."""
        if context is None:
            found: list[str] = vars(self._of_threads).setdefault("begun", [])
            return found
        with self._lock:
            begun = self._of_steps.get(context)
            if begun is None:
                begun = self._of_steps[context] = []
        return begun

    def _pass_on(self, line: str, context: Context[Any] | None) -> None:
        about: dict[str, Any] = {"action": "step_output"}
        if context is not None:
            about |= {"run_id": context.run_id, "step": context.step_name}
            keep_printed(context, line)
        self._of_threads.is_saying = True
        try:
            self._say(line if context is None else f"[{context.step_name}] {line}", about)
        finally:
            self._of_threads.is_saying = False


def log_line(line: str, about: dict[str, Any]) -> None:
    """Log a line with level WARNING, as Celery logs what tasks print."""
    if line.strip():
        logger.warning("%s", line, extra=about)


def print_line(line: str, about: dict[str, Any]) -> None:
    """Print a line unchanged to standard error."""
    stream: TextIO | None = sys.__stderr__
    if stream is not None:
        with suppress(OSError):  # a closed pipe must not fail the step
            stream.write(f"{line}\n")
            stream.flush()
