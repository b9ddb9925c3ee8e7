"""Ctrl-C: the first one ends a command cleanly, the second one at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

#: The exit code of a command that Ctrl-C has ended.
INTERRUPTED = 130


def next_interrupt_ends() -> None:
    """Let the next Ctrl-C end this process at once; what it has started ends with it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored in background jobs of a script
        signal.signal(signal.SIGINT, _end)


def next_interrupt_raises() -> None:
    """Let the next Ctrl-C raise KeyboardInterrupt, after `next_interrupt_ends`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
