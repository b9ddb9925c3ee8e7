# dramatiq is an optional peer.
# mypy: disable-error-code="import-not-found,no-untyped-call"
"""dramatiq as its command line starts it: a process per processor, eight threads each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from .contender import Chained


class Dramatiq(Chained):
    """Actors that send the next one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, processes=1)
        self._broker: Any = None

    @property
    def about(self) -> str:
        return "`dramatiq --processes 2 --threads 8`"

    def command(self, number: int) -> list[str]:
        options = ["--processes", "2", "--threads", "8", "--skip-logging"]
        return [sys.executable, "-m", "dramatiq", "benchmarks.shapes_dramatiq", *options]

    def connect(self, url: str) -> None:
        super().connect(url)
        self._broker = RedisBroker(url=url)
        self._broker.declare_queue("default")

    def send(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        for arguments in calls:
            message: Any = Message(
                queue_name="default", actor_name=task, args=arguments, kwargs={}, options={"max_retries": 0}
            )
            self._broker.enqueue(message)

    def close(self) -> None:
        if self._broker is not None:
            self._broker.close()
        super().close()
