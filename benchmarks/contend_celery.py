"""Plain Celery: tasks that send the next one, and canvas. No gossip, mingle or heartbeat, as in umbel's worker."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from celery import Celery, Signature, chain, chord

from .contender import PATIENCE_SECONDS, Chained, Contender, Progress, new_names
from .shapes_umbel import CHAIN_STEPS, PAYLOAD
from .waiting import wait_until


class _Workers:
    """How Celery's workers are started."""

    def __init__(self, app: str, pool: str, concurrency: int, task_events: bool) -> None:
        self._app, self._pool, self._concurrency, self._task_events = app, pool, concurrency, task_events

    @property
    def about(self) -> str:
        events = ", task events on" if self._task_events else ""
        return f"`celery worker`, pool {self._pool}, concurrency {self._concurrency}{events}"

    def command(self, number: int) -> list[str]:
        return [
            *(sys.executable, "-m", "celery", "-A", f"benchmarks.shapes_celery:{self._app}", "worker"),
            *("--pool", self._pool, "--concurrency", str(self._concurrency), "-n", f"w{number}@%h"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
            *(["-E"] if self._task_events else []),
        ]


class ByHand(Chained):
    """No result backend, early acknowledgement: Celery's fastest configuration."""

    def __init__(
        self,
        name: str,
        *,
        processes: int = 1,
        pool: str = "prefork",
        concurrency: int = 2,
        task_events: bool = False,
    ) -> None:
        super().__init__(name, processes=processes)
        self._workers = _Workers("by_hand", pool, concurrency, task_events)
        self._app: Any = None

    @property
    def about(self) -> str:
        return f"{self.processes} x {self._workers.about}"

    def command(self, number: int) -> list[str]:
        return self._workers.command(number)

    def connect(self, url: str) -> None:
        super().connect(url)
        self._app = Celery("client", broker=url, set_as_current=False)
        self._app.conf.task_ignore_result = True

    def warm_up(self) -> None:
        wait_until(lambda: len(self._app.control.ping(timeout=0.3, limit=self.processes)) == self.processes, "workers")
        super().warm_up()

    def send(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        for arguments in calls:
            self._app.send_task(f"benchmarks.shapes_celery.{task}", arguments)

    def progress(self, count: int, pause_seconds: float) -> Progress:
        [name] = new_names(1)
        stream, last = f"ticks:{name}", b"0"
        seen = Progress(name)
        self.send("tick", [(name, count, pause_seconds, PAYLOAD)])
        while len(seen.numbers) < count:
            [[_, entries]] = self.redis.xread({stream: last}, block=int(PATIENCE_SECONDS * 1000))
            now = time.time_ns()
            last = entries[-1][0]
            for _, fields in entries:
                seen.add(int(fields[b"number"]), int(fields[b"written_at_ns"]), now)
        self._wait([name])
        self.redis.delete(stream)
        return seen

    def close(self) -> None:
        if self._app is not None:
            self._app.close()
        super().close()


class Canvas(Contender):
    """Celery's chain and chord, with the Redis result backend they need."""

    keeps_runs = True

    def __init__(self, name: str) -> None:
        super().__init__(name, processes=1)
        self._workers = _Workers("canvas", "prefork", 2, task_events=False)
        self._app: Any = None

    @property
    def about(self) -> str:
        return f"1 x {self._workers.about}, Redis result backend"

    def command(self, number: int) -> list[str]:
        return self._workers.command(number)

    def connect(self, url: str) -> None:
        super().connect(url)
        self._app = Celery("client", broker=url, backend=url, set_as_current=False)

    def _call(self, task: str, *arguments: Any) -> Signature:
        return self._app.signature(f"benchmarks.shapes_celery.{task}", arguments)

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        links = [self._call("canvas_hop", PAYLOAD, 1, gate)]
        links += [self._call("canvas_hop", number, gate) for number in range(2, CHAIN_STEPS + 1)]
        results = [chain(*links).apply_async() for _ in range(runs)]
        yield
        for result in results:
            result.get(timeout=PATIENCE_SECONDS)

    def fans(self, runs: int, width: int) -> None:
        parts = [self._call("canvas_work", number, PAYLOAD) for number in range(width)]
        results = [chord(parts, app=self._app)(self._call("canvas_join")) for _ in range(runs)]
        for result in results:
            assert result.get(timeout=PATIENCE_SECONDS) == width

    def single(self) -> None:
        self._call("canvas_single", PAYLOAD).delay().get(timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        if self._app is not None:
            self._app.close()
        super().close()
