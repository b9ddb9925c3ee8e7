"""Who is measured: each with its own Redis (append-only file, everysec) and worker processes as users start them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import redis
from celery import chain, chord

from umbel import Runtime, Settings
from umbel.workers.embedded import EmbeddedRedis
from umbel.workers.local import worker_command, worker_environment
from umbel.workers.watchdog import Watchdog

from . import shapes_celery
from .shapes_umbel import CHAIN_STEPS, PAYLOAD, Chain, Fan, Single, Tick, Ticker

#: Seconds after which whatever is waited for counts as hung.
PATIENCE_SECONDS = 300.0
SHAPES_UMBEL = "benchmarks.shapes_umbel"


@dataclass(frozen=True)
class Workers:
    """The same for every contender.

    Attributes:
        processes: Worker processes.
        pool: Celery pool.
        concurrency: Of each process.
    """

    processes: int = 1
    pool: str = "prefork"
    concurrency: int = 2

    @property
    def text(self) -> str:
        """For a report."""
        return f"Each contender: {self.processes} worker process(es), pool {self.pool}, concurrency {self.concurrency}"


class Contender(ABC):
    """One way to execute the shapes. Every method blocks until all that it started has ended."""

    name: ClassVar[str]
    #: Its Redis and its worker processes.
    processes: tuple[int, ...] = ()

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url, socket_timeout=None)

    @staticmethod
    @abstractmethod
    def command(workers: Workers, number: int) -> list[str]:
        """Command line of a worker process."""

    @abstractmethod
    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        """Start chains at once; goes on once when they are started, and ends when they have ended."""

    @abstractmethod
    def fans(self, runs: int, width: int) -> None:
        """Fan out and join, so many at once."""

    @abstractmethod
    def single(self) -> None:
        """One step, from start to result."""

    def progress(self, count: int, pause_seconds: float) -> list[float] | None:
        """Seconds from the writing of each progress event to its reader; None where there is no such thing."""
        return None

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def bytes(self) -> int:
        """What Redis needs for all keys, as MEMORY USAGE tells."""
        total = 0
        keys = list(self.redis.scan_iter(count=1000))
        for start in range(0, len(keys), 1000):
            pipeline = self.redis.pipeline(transaction=False)
            for key in keys[start : start + 1000]:
                pipeline.memory_usage(key, samples=0)
            total += sum(used or 0 for used in pipeline.execute())
        return total


class Umbel(Contender):
    """umbel, as `umbel worker` runs it."""

    name = "umbel"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._runtime = Runtime(Settings.from_environment(redis_url=url))
        options: dict[str, Any] = {"timeout": 600, "runtime": self._runtime}
        self._chain, self._fan = Chain(**options), Fan(**options)
        self._single, self._ticker = Single(**options), Ticker(**options)

    @staticmethod
    def command(workers: Workers, number: int) -> list[str]:
        command = worker_command([SHAPES_UMBEL], pool=workers.pool, concurrency=workers.concurrency)
        return [*command, "--loglevel", "WARNING"]

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

    def progress(self, count: int, pause_seconds: float) -> list[float]:
        handler = self._ticker.start(count=count, pause_seconds=pause_seconds)
        return [
            (time.time_ns() - event.written_at_ns) / 1e9
            for event in handler.events(timeout=PATIENCE_SECONDS)
            if isinstance(event, Tick)
        ]

    def close(self) -> None:
        self._runtime.close()
        super().close()


class CeleryByHand(Contender):
    """Celery with its defaults: tasks that send the next one, a counter that joins."""

    name = "by hand"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        shapes_celery.by_hand.conf.broker_url = url

    @staticmethod
    def command(workers: Workers, number: int) -> list[str]:
        return celery_command("by_hand", workers, number)

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        names = [secrets.token_hex(8) for _ in range(runs)]
        for name in names:
            shapes_celery.hop.delay(name, 1, gate, PAYLOAD)
        yield
        self._wait(names)

    def fans(self, runs: int, width: int) -> None:
        names = [secrets.token_hex(8) for _ in range(runs)]
        for name in names:
            shapes_celery.split.delay(name, width, PAYLOAD)
        self._wait(names)

    def single(self) -> None:
        name = secrets.token_hex(8)
        shapes_celery.single.delay(name, PAYLOAD)
        self._wait([name])

    def progress(self, count: int, pause_seconds: float) -> list[float]:
        name = secrets.token_hex(8)
        stream, last = f"ticks:{name}", b"0"
        delays: list[float] = []
        shapes_celery.tick.delay(name, count, pause_seconds, PAYLOAD)
        while len(delays) < count:
            [[_, entries]] = self.redis.xread({stream: last}, block=int(PATIENCE_SECONDS * 1000))
            now = time.time_ns()
            last = entries[-1][0]
            delays += [(now - int(fields[b"written_at_ns"])) / 1e9 for _, fields in entries]
        self.redis.delete(stream)
        return delays

    def _wait(self, names: list[str]) -> None:
        for name in names:
            if self.redis.blpop([f"done:{name}"], timeout=PATIENCE_SECONDS) is None:
                raise TimeoutError(f"{self.name}: run {name} has not ended in {PATIENCE_SECONDS:g} s")


class CeleryCanvas(Contender):
    """Celery's chain and chord, with the Redis result backend they need."""

    name = "canvas"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        shapes_celery.canvas.conf.update(broker_url=url, result_backend=url)

    @staticmethod
    def command(workers: Workers, number: int) -> list[str]:
        return celery_command("canvas", workers, number)

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        hop = shapes_celery.canvas_hop
        links = [hop.s(PAYLOAD, 1, gate), *(hop.s(number, gate) for number in range(2, CHAIN_STEPS + 1))]
        results = [chain(*links).apply_async() for _ in range(runs)]
        yield
        for result in results:
            result.get(timeout=PATIENCE_SECONDS)

    def fans(self, runs: int, width: int) -> None:
        parts = [shapes_celery.canvas_work.s(number, PAYLOAD) for number in range(width)]
        results = [chord(parts)(shapes_celery.canvas_join.s()) for _ in range(runs)]
        for result in results:
            assert result.get(timeout=PATIENCE_SECONDS) == width

    def single(self) -> None:
        shapes_celery.canvas_single.delay(PAYLOAD).get(timeout=PATIENCE_SECONDS)


CONTENDERS: dict[str, type[Contender]] = {each.name: each for each in (Umbel, CeleryByHand, CeleryCanvas)}


def celery_command(app: str, workers: Workers, number: int) -> list[str]:
    """The command line of a plain Celery worker, without what umbel's worker goes without too."""
    return [
        *(sys.executable, "-m", "celery", "-A", f"benchmarks.shapes_celery:{app}", "worker"),
        *("--pool", workers.pool, "--concurrency", str(workers.concurrency), "-n", f"w{number}@%h"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
    ]


@contextmanager
def deployed(kinds: list[type[Contender]], workers: Workers) -> Iterator[list[Contender]]:
    """Start a Redis and workers for each, and end once all have answered; afterwards nothing is left of them."""
    with ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog())
        silence = stack.enter_context(open(os.devnull, "wb"))
        contenders = []
        for kind in kinds:
            server = stack.enter_context(EmbeddedRedis.temporary(watchdog=watchdog))
            environment = worker_environment(Settings.from_environment(redis_url=server.url))
            environment["BENCHMARK_REDIS"] = server.url
            pids = [server.pid or 0]
            for number in range(workers.processes):
                process = watchdog.spawn(
                    kind.command(workers, number), env=environment, output=silence.fileno(), grace_seconds=30
                )
                stack.callback(end, process)
                pids.append(process.pid)
            contender = kind(server.url)
            contender.processes = tuple(pids)
            stack.callback(contender.close)
            contenders.append(contender)
        for contender in contenders:
            for _ in range(5):
                contender.single()
            contender.fans(1, 10)
        yield contenders


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a worker to stop, and wait for it."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
