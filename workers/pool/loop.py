"""The asyncio loop that runs coroutine tasks, in a thread of its own."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from ...orchestration.connection.stopping import stop
from ...orchestration.model.errors import ConfigurationError
from .daemon_threads import DaemonThreads

logger = logging.getLogger(__name__)

#: Threads for `asyncio.to_thread`, in which tasks execute blocking calls; the same as asyncio's own limit.
_TO_THREAD_THREADS = 32

#: Default garbage collection thresholds of the supported Python versions.
_DEFAULT_THRESHOLDS = ((700, 10, 10), (2000, 10, 10), (2000, 10, 0))
#: The thresholds of a worker: a step makes a few hundred objects, and hardly any cycles.
_THRESHOLDS = (10_000, 20, 20)


class PoolLoop:
    """A running loop, and the thread it runs in."""

    def __init__(self, kind: str) -> None:
        """Start it.

        Args:
            kind: `asyncio`, or `uvloop` if that is installed.

        Raises:
            ConfigurationError: The kind is unknown or not installed.
        """
        self.loop = _new_loop(kind)
        self.loop.set_default_executor(DaemonThreads(_TO_THREAD_THREADS, "umbel-to-thread"))
        self._is_ending = False
        _collect_garbage_rarely()
        self._thread = threading.Thread(target=self._run, name="umbel-loop", daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """The thread's id, as in `sys._current_frames`."""
        assert self._thread.ident is not None
        return self._thread.ident

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Schedule a call in the loop's thread; does nothing once the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def end(self, seconds: float) -> None:
        """Cancel what still runs and end the loop; if a task blocks it, its thread is abandoned."""
        if self._is_ending:
            return
        self.call(lambda: self.loop.create_task(self._finish(seconds / 2)))
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("A task blocks the asyncio loop; its thread is abandoned.", extra={"action": "loop_stuck"})

    async def _finish(self, seconds: float) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for each in rest:
            stop(each)
        if rest:
            await asyncio.wait(rest, timeout=seconds)
        await self.loop.shutdown_asyncgens()
        self._is_ending = True
        self.loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._is_ending:
            try:
                self.loop.run_forever()
            except BaseException as error:
                # asyncio re-raises SystemExit and KeyboardInterrupt here; an asyncio task that a step created may
                # raise them.
                logger.error(
                    "A child task raised %r; the loop continues.", error, exc_info=error, extra={"action": "pool_error"}
                )
        self.loop.close()


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    if kind != "uvloop":
        raise ConfigurationError(f"worker_asyncio_loop must be 'asyncio' or 'uvloop', got {kind!r}.")
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError as error:
        raise ConfigurationError(
            "worker_asyncio_loop is 'uvloop', which is not installed. Install it, or set worker_asyncio_loop='asyncio'."
        ) from error
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _collect_garbage_rarely() -> None:
    """Keep Python from rescanning objects that live as long as the worker, which takes a tenth of a step's time.

    Garbage collection that is disabled or has other than default thresholds is left as it is.
    """
    if gc.isenabled() and gc.get_threshold() in _DEFAULT_THRESHOLDS:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
