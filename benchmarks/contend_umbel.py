"""umbel as users start it: `umbel worker` with the asyncio pool, one process per processor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from umbel import Runtime, Settings, WorkflowHandler
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.orchestration.history.packing.chunks import pack_run
from umbel.workers.local.command_process import worker_command

from .contender import PATIENCE_SECONDS, Contender, Progress
from .shapes_umbel import Await, Chain, Compute, Fan, Loop, Single, Tick, Ticker
from .waiting import wait_until

SHAPES_UMBEL = "benchmarks.shapes_umbel"
_TARGETS = [SHAPES_UMBEL, "benchmarks.shapes_waiting"]


class Umbel(Contender):
    """A client with its own Redis and workers."""

    keeps_runs = True

    def __init__(
        self,
        name: str = "umbel",
        *,
        processes: int = 2,
        pool: str = "asyncio",
        concurrency: int | None = None,
        task_events: bool = False,
        appendfsync: str = "everysec",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, processes=processes, appendfsync=appendfsync)
        self.settings = dict(settings or {})
        self._pool, self._concurrency, self._task_events = pool, concurrency, task_events
        self.runtime: Any = None

    @property
    def about(self) -> str:
        at_once = "" if self._concurrency is None else f", concurrency {self._concurrency}"
        events = ", task events on" if self._task_events else ""
        fsync = "" if self.appendfsync == "everysec" else f", appendfsync {self.appendfsync}"
        settings = "".join(f", {name} {value}" for name, value in self.settings.items())
        return f"{self.processes} x `umbel worker`, pool {self._pool}{at_once}{events}{fsync}{settings}"

    def command(self, number: int) -> list[str]:
        command = worker_command(_TARGETS, pool=self._pool, concurrency=self._concurrency)
        return [*command, "--loglevel", "WARNING", *(["-E"] if self._task_events else [])]

    def connect(self, url: str) -> None:
        super().connect(url)
        self.runtime = Runtime(Settings.from_environment(redis_url=url, **self.settings))
        options: dict[str, Any] = {"timeout": 600, "runtime": self.runtime}
        self._chain, self._fan, self._single, self._loop = (cls(**options) for cls in (Chain, Fan, Single, Loop))
        self._ticker, self._await, self._compute = (cls(**options) for cls in (Ticker, Await, Compute))

    def warm_up(self) -> None:
        pids = set(self.worker_pids)
        wait_until(
            lambda: (
                pids
                <= {each.pid for each in self.runtime.portal.call(seen_workers(self.runtime.store)) if each.is_live}
            ),
            "workers",
        )
        super().warm_up()

    def compress(self) -> None:
        """Do now what happens a minute after a run ends: journals are compressed, answers of commits expire."""
        store = self.runtime.store
        for index in self.redis.scan_iter("*:runs:completed", count=1000):
            for run_id in self.redis.zrange(index, 0, -1):
                self.runtime.portal.call(pack_run(store, run_id.decode()))
        for answer in self.redis.scan_iter("*:run:*:answer:*", count=1000):
            self.redis.unlink(answer)

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        handlers = [self._chain.start(gate=gate) for _ in range(runs)]
        yield
        for handler in handlers:
            handler.result(PATIENCE_SECONDS)

    def fans(self, runs: int, width: int) -> None:
        handlers = [self._fan.start(width=width) for _ in range(runs)]
        for handler in handlers:
            assert handler.result(PATIENCE_SECONDS) == width

    def single(self) -> None:
        self._single.start().result(PATIENCE_SECONDS)

    def loop(self, length: int) -> None:
        """One run of this many steps, one after the other."""
        self.long_run(length)

    def long_run(self, length: int) -> WorkflowHandler:
        """The same; returns the handler of the ended run."""
        handler: WorkflowHandler = self._loop.start(length=length)
        handler.result(PATIENCE_SECONDS)
        return handler

    def awaiting(self, count: int, seconds: float) -> None:
        """One run of this many concurrent steps that only wait."""
        assert self._await.start(width=count, seconds=seconds).result(PATIENCE_SECONDS) == count

    def computing(self, count: int, seconds: float) -> None:
        """One run of this many steps that compute."""
        assert self._compute.start(width=count, seconds=seconds).result(PATIENCE_SECONDS) == count

    def progress(self, count: int, pause_seconds: float) -> Progress:
        handler = self._ticker.start(count=count, pause_seconds=pause_seconds)
        seen = Progress(handler.run_id)
        for event in handler.events(timeout=PATIENCE_SECONDS):
            if isinstance(event, Tick):
                seen.add(event.number, event.written_at_ns, time.time_ns())
        return seen

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.close()
        super().close()
