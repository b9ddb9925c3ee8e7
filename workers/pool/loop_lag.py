"""Reports which task blocks the loop that all coroutine tasks of a worker share."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from asyncio import events
from collections.abc import Callable
from types import FrameType

from . import tracer as async_tracer
from .loop import PoolLoop

logger = logging.getLogger("umbel.worker")


class LoopWatch:
    """A thread that regularly calls the loop and, if it does not answer, logs where it is stuck."""

    def __init__(self, loop: PoolLoop, is_busy: Callable[[], bool], seconds: float) -> None:
        """Start watching.

        Args:
            loop: The loop.
            is_busy: Whether any task runs on the loop; an idle loop is not called.
            seconds: How long it may take to answer. Each time it blocks is logged once.
        """
        self._loop, self._is_busy, self._seconds = loop, is_busy, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="umbel-loop-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._end.set()

    def _watch(self) -> None:
        while not self._end.wait(self._seconds / 2):
            if not self._is_busy():
                continue
            answered = threading.Event()
            self._loop.call(answered.set)
            if answered.wait(self._seconds) or self._end.is_set():
                continue
            self._report()
            while not answered.wait(1) and not self._end.is_set():
                pass

    def _report(self) -> None:
        # Both can be read from another thread, but may change right afterwards.
        task = asyncio.current_task(self._loop.loop)
        frame = sys._current_frames().get(self._loop.thread_id)
        name = task.get_name() if task is not None else "a callback"
        stack = _stack(frame) if frame is not None else "it has just continued"
        logger.warning(
            "%s has blocked the asyncio loop for %s s, and with it all other async tasks of this worker. Let it await, "
            "or use asyncio.to_thread for the blocking call. It is here:\n%s",
            name,
            self._seconds,
            stack,
            extra={"action": "loop_blocked", "task": name},
        )


def _stack(frame: FrameType) -> str:
    """The stack as in a traceback, without the frames of the loop and the pool."""
    found = traceback.extract_stack(frame)
    outer = [number for number, each in enumerate(found) if each.filename in (async_tracer.__file__, events.__file__)]
    return "".join(traceback.format_list(found[outer[-1] + 1 :] if outer else found)).rstrip("\n")
