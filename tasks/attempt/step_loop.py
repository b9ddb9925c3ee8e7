"""One event loop per process, in its own thread: where async steps run when the pool has no loop of its own."""

from __future__ import annotations

import asyncio
import threading


class LoopThread:
    """An event loop in a daemon thread, started when first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="umbel-steps", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """Stop the loop. Steps still on it are cancelled."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return

        def stop() -> None:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.call_soon(loop.stop)

        loop.call_soon_threadsafe(stop)
        thread.join(5)
        if not thread.is_alive():
            loop.close()
