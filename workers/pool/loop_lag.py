"""Tells which task blocks the loop that all coroutine tasks of a worker share."""

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
    """A thread that asks the loop for a sign of life, and tells where it is stuck when there is none."""

    def __init__(self, loop: PoolLoop, is_busy: Callable[[], bool], seconds: float) -> None:
        """Start watching.

        Args:
            loop: The loop.
            is_busy: Whether anything runs there; an idle loop is left in peace.
            seconds: How long it may take to answer. One blocking is told once.
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
            self._tell()
            while not answered.wait(1) and not self._end.is_set():
                pass

    def _tell(self) -> None:
        # Another thread may look at both: it is told what was true a moment ago.
        task = asyncio.current_task(self._loop.loop)
        frame = sys._current_frames().get(self._loop.thread_id)
        name = task.get_name() if task is not None else "a callback"
        stack = _stack(frame) if frame is not None else "it has just gone on"
        logger.warning(
            "%s has blocked the asyncio loop for %s s, and with it all other async tasks of this worker. Let it await, "
            "or hand what blocks to asyncio.to_thread. It is here:\n%s",
            name,
            self._seconds,
            stack,
            extra={"action": "loop_blocked", "task": name},
        )


def _stack(frame: FrameType) -> str:
    """Where it is, as in a traceback, without what the loop and the pool did to get there."""
    found = traceback.extract_stack(frame)
    ours = [number for number, each in enumerate(found) if each.filename in (async_tracer.__file__, events.__file__)]
    return "".join(traceback.format_list(found[ours[-1] + 1 :] if ours else found)).rstrip("\n")
