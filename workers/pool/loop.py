"""The asyncio loop that carries coroutine tasks, in a thread of its own."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from ...orchestration.model.errors import ConfigurationError
from .daemon_threads import DaemonThreads

logger = logging.getLogger(__name__)

#: Threads for `asyncio.to_thread`, in which a task waits for something that blocks: asyncio's own limit.
_HELPERS = 32


class PoolLoop:
    """A running loop, and the thread it runs in."""

    def __init__(self, kind: str) -> None:
        """Start it.

        Args:
            kind: `asyncio`, or `uvloop` if that is installed.

        Raises:
            ConfigurationError: There is no such kind here.
        """
        self.loop = _new_loop(kind)
        self.loop.set_default_executor(DaemonThreads(_HELPERS, "umbel-helper"))
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="umbel-loop", daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """As `sys._current_frames` names it."""
        assert self._thread.ident is not None
        return self._thread.ident

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the loop's thread soon; nothing happens once the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def end(self, seconds: float) -> None:
        """Cancel what still runs and end the loop; a thread that is stuck in it is left behind."""
        if self._is_ending:
            return
        self.call(lambda: self.loop.create_task(self._finish(seconds / 2)))
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("The asyncio loop is blocked by a task and is left behind.", extra={"action": "loop_stuck"})

    async def _finish(self, seconds: float) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for each in rest:
            each.cancel()
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
                # asyncio re-raises SystemExit and KeyboardInterrupt here, which a task's own child task may raise.
                logger.error(
                    "%r came out of a child task; the loop goes on.",
                    error,
                    exc_info=error,
                    extra={"action": "pool_error"},
                )
        self.loop.close()


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    if kind != "uvloop":
        raise ConfigurationError(f"worker_asyncio_loop is 'asyncio' or 'uvloop', got {kind!r}.")
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError as error:
        raise ConfigurationError(
            "worker_asyncio_loop is 'uvloop', which is not installed. Install it, or set worker_asyncio_loop='asyncio'."
        ) from error
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
