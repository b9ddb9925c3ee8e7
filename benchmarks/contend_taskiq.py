# taskiq is an optional peer.
# mypy: disable-error-code="import-not-found"
"""taskiq on Redis, without validation of arguments: its fastest settings."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from taskiq.kicker import AsyncKicker
from taskiq_redis import RedisStreamBroker

from .contender import Chained


class Taskiq(Chained):
    """Tasks that send the next one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, processes=1)
        self._broker: Any = None
        self._loop = asyncio.Runner()

    @property
    def about(self) -> str:
        return "`taskiq worker --workers 2 --no-parse`, stream broker, no results"

    def command(self, number: int) -> list[str]:
        options = ["--workers", "2", "--no-parse", "--log-level", "WARNING"]
        return [sys.executable, "-m", "taskiq", "worker", "benchmarks.shapes_taskiq:broker", *options]

    def connect(self, url: str) -> None:
        super().connect(url)
        self._broker = RedisStreamBroker(url)
        self._loop.run(self._broker.startup())

    def send(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        self._loop.run(self._send(task, calls))

    async def _send(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        for arguments in calls:
            await AsyncKicker(task_name=task, broker=self._broker, labels={}).kiq(*arguments)

    def close(self) -> None:
        if self._broker is not None:
            self._loop.run(self._broker.shutdown())
        self._loop.close()
        super().close()
