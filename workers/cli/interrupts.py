"""Ctrl-C: the first one ends a command cleanly, the second one at once."""

from __future__ import annotations

import os
import signal

#: The exit code of a command that Ctrl-C has ended.
INTERRUPTED = 130


def next_interrupt_ends() -> None:
    """Let the next Ctrl-C end this process at once; what it has started ends with it."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
