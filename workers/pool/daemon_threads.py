"""A thread pool that can end although a thread is stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any


class DaemonThreads(ThreadPoolExecutor):
    """Threads like those of `ThreadPoolExecutor`, but the interpreter does not wait for them when it exits.

    It is a subclass only because asyncio accepts no other class as a loop's executor; nothing inherited is used.
    """

    def __init__(self, size: int, name: str) -> None:
        """Create the pool; threads are started when there is work for them.

        Args:
            size: Maximum number of threads.
            name: Prefix of their names.
        """
        super().__init__(1)
        self.size, self.name = size, name
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._count = self._waiting = 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in one of the threads; functions start in the order in which they were submitted."""
        future: Future[Any] = Future()
        with self._guard:
            self._waiting -= 1
            if self._waiting < 0 and self._count < self.size:
                self._count += 1
                self._waiting += 1
                threading.Thread(target=self._serve, name=f"{self.name}-{self._count}", daemon=True).start()
        self._todo.put((future, lambda: function(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once everything submitted so far is done; does not wait for them."""
        for _ in range(self._count):
            self._todo.put(None)

    def _serve(self) -> None:
        while (work := self._todo.get()) is not None:
            future, function = work
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del work, future, function
            with self._guard:
                self._waiting += 1
