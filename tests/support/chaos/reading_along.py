"""Readers of running runs that repeatedly disconnect and resume from the last number they received."""

from __future__ import annotations

import random
import threading
import time

from umbel.orchestration.model.errors import UmbelError
from umbel.tasks.client.runtime import Runtime


class ReadingAlong:
    """One reader of one run, in its own thread."""

    def __init__(self, runtime: Runtime, run_id: str, seed: int) -> None:
        self.run_id = run_id
        #: The numbers of all events it received, in the order received.
        self.numbers: list[int] = []
        self._runtime, self._random = runtime, random.Random(f"reader {seed} {run_id}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"reader-{run_id}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            after = self.numbers[-1] if self.numbers else -1
            reader = self._runtime.hub.reader(self.run_id, after, False, None)
            leave_after = self._random.randint(1, 6)
            try:
                for event in reader.events(timeout=0.5):
                    self.numbers.append(event.seq)
                    leave_after -= 1
                    if leave_after == 0:
                        break
                else:
                    return
            except TimeoutError:
                continue
            except UmbelError:  # Redis is unreachable
                time.sleep(0.1)

    def finish(self, seconds: float = 20.0) -> list[int]:
        """Wait until it has read to the end, and return the numbers it received."""
        self._thread.join(seconds)
        self._stop.set()
        return self.numbers
