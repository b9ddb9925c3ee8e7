"""Histograms of how long steps took and waited: counted in the process that executes them, sent with its heartbeat."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from itertools import islice

from ...orchestration.connection.keys import new_nonce
from ...orchestration.engine.leases import Counts
from ...orchestration.inspection.metrics import BOUNDS

#: Maximum fields of one batch: Redis adds them in about 2 ms.
_MOST_FIELDS = 1000


class Histograms:
    """Observations of a process that are not sent yet. May be used from any thread.

    In Redis `what|n` counts the values up to the n-th of BOUNDS and above the one before; `what|sum` is their sum in
    ms.

    *Promise.* Each observation is counted once, when a heartbeat delivers it; those since the latest heartbeat are lost
    if the process is killed.
    """

    def __init__(self) -> None:
        self._observed: Counter[str] = Counter()  # field of the counters in Redis -> increment
        self._under_way: Counts | None = None  # until it is known to have arrived
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._observed) or self._under_way is not None

    def took(self, workflow: str, step: str, ms: float) -> None:
        """Record how long an attempt took whose outcome is committed."""
        self._observe(f"took|{workflow}|{step}", ms)

    def waited(self, queue: str, ms: float) -> None:
        """Record how long a claimed step had waited in its queue."""
        self._observe(f"wait|{queue}", ms)

    def _observe(self, what: str, ms: float) -> None:
        bucket, total = f"{what}|{bisect_left(BOUNDS, ms) + 1}", f"{what}|sum"
        with self._lock:
            self._observed[bucket] += 1
            self._observed[total] += ms  # type: ignore[assignment]  # rounded when it is sent

    def batch(self) -> Counts | None:
        """The counts for the next heartbeat: the same ones until `arrived` is called; None if there are none."""
        with self._lock:
            if self._under_way is None and self._observed:
                fields = {name: round(self._observed[name]) for name in islice(self._observed, _MOST_FIELDS)}
                for name in fields:
                    del self._observed[name]
                self._under_way = Counts(new_nonce(), fields)
            return self._under_way

    def arrived(self) -> None:
        """Redis has counted the batch."""
        with self._lock:
            self._under_way = None
