"""A command as a person runs it: on a terminal of 80 columns, with keyboard input."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from types import TracebackType
from typing import Self

from support.eventually import eventually
from support.processes.command_line import Cli

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


class Terminal:
    """A command with one terminal as all its standard streams, as the terminal's foreground process."""

    def __init__(self, cli: Cli, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # pytest-xdist sets these in its processes, and they would override the size of the terminal.
        environment = {name: value for name, value in cli.environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            cli.command(*arguments),
            cwd=cli.folder,
            env={**environment, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All its output, without control sequences."""
        return _CONTROL.sub("", self._seen.decode(errors="replace")).replace("\r\n", "\n")

    @property
    def last_frame(self) -> str:
        """The output since it last redrew something."""
        return _CONTROL.sub("", re.split(r"\x1b\[\d*[AK]", self._seen.decode(errors="replace"))[-1]).replace("\r", "")

    def says(self, text: str) -> None:
        """Wait until it has shown this text."""

        def said() -> bool:
            assert self.process.poll() is None or text in self.text, f"it has ended without {text!r}:\n{self.text}"
            return text in self.text

        eventually(said, f"it shows {text!r}")

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C: the terminal interrupts its foreground processes."""
        os.write(self._ours, b"\x03")

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._ours, text.encode() + b"\n")

    def ends(self) -> int:
        """Wait until it ends; return the exit code."""
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self._reader.join(10)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65_536):
                self._seen += data
        except OSError:  # how a terminal reports that the other side is closed
            return
