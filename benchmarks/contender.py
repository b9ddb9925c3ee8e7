"""The interface of a contender, and the kind that chains tasks by hand. `sections.py` lists the contenders."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import redis

from .shapes_umbel import PAYLOAD

#: Seconds after which anything awaited counts as hung.
PATIENCE_SECONDS = 90.0


class Contender(ABC):
    """One way to execute the shapes. Every method blocks until all that it started has ended."""

    #: Whether it has a Redis of its own; otherwise it runs in the measuring process.
    has_redis: ClassVar[bool] = True
    #: Whether a run leaves a record in Redis.
    keeps_runs: ClassVar[bool] = False
    #: The widest fan-out that it completes within a minute.
    widest: ClassVar[int] = 1_000_000

    def __init__(self, name: str, *, processes: int = 0, appendfsync: str = "everysec") -> None:
        self.name, self.processes, self.appendfsync = name, processes, appendfsync
        #: Settings of umbel that differ from the environment's.
        self.settings: dict[str, Any] = {}
        self.redis: Any = None
        self.server_pid = 0
        self.worker_pids: tuple[int, ...] = ()

    @property
    @abstractmethod
    def about(self) -> str:
        """How it was started, for the report."""

    def command(self, number: int) -> list[str]:
        """Command line of a worker process."""
        raise NotImplementedError(self.name)

    def connect(self, url: str) -> None:
        """Become the client of the workers at this Redis."""
        self.redis = redis.Redis.from_url(url, socket_timeout=None)
        self.redis.config_set("appendfsync", self.appendfsync)

    def warm_up(self) -> None:
        """Return once all workers have started and every shape has been executed."""
        for _ in range(5):
            self.single()
        for _ in self.chains(4 * self.processes):
            pass
        self.fans(1, 20)

    def compress(self) -> None:
        """Do now what is otherwise done later to save memory."""
        return

    @abstractmethod
    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        """Start chains at once. Yields once when they are started, and returns when all have ended.

        Only a contender that keeps runs needs to use the gate.
        """

    @abstractmethod
    def fans(self, runs: int, width: int) -> None:
        """Run this many fan-outs with their joins at once."""

    @abstractmethod
    def single(self) -> None:
        """Run one step, from start to result."""

    def progress(self, count: int, pause_seconds: float) -> Progress | None:
        """Run one step that writes `count` progress events, read as they arrive; None if it has no progress events."""
        return None

    def close(self) -> None:
        """Close the connections."""
        if self.redis is not None:
            self.redis.close()


class Progress:
    """The observations of a reader of progress events.

    Attributes:
        stream: Part of every key that the events were written to.
        numbers: Numbers of the events, in order of arrival.
        delays: Seconds from writing each event to reading it.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.numbers: list[int] = []
        self.delays: list[float] = []

    def add(self, number: int, written_at_ns: int, read_at_ns: int) -> None:
        """Record that another event was read."""
        self.numbers.append(number)
        self.delays.append((read_at_ns - written_at_ns) / 1e9)


class Chained(Contender):
    """Tasks that send the next one, and a counter that joins: a lower bound, not a product. No storage or recovery."""

    @abstractmethod
    def send(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send a task once for each tuple of arguments."""

    def chains(self, runs: int, gate: str | None = None) -> Iterator[None]:
        names = new_names(runs)
        self.send("hop", [(name, 1, PAYLOAD) for name in names])
        yield
        self._wait(names)

    def fans(self, runs: int, width: int) -> None:
        names = new_names(runs)
        self.send("split", [(name, width, PAYLOAD) for name in names])
        self._wait(names)

    def single(self) -> None:
        names = new_names(1)
        self.send("single", [(names[0], PAYLOAD)])
        self._wait(names)

    def _wait(self, names: list[str]) -> None:
        for name in names:
            if self.redis.blpop([f"done:{name}"], timeout=PATIENCE_SECONDS) is None:
                raise TimeoutError(f"{self.name}: run {name} has not ended in {PATIENCE_SECONDS:g} s")


def new_names(count: int) -> list[str]:
    """New names for runs."""
    return [secrets.token_hex(8) for _ in range(count)]
