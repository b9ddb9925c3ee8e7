"""Streams over HTTP: the delay of published events for a reader, and the cost of a thousand readers for one server.

    python -m benchmarks.http_streams                  # 1,000 readers, a minute
    python -m benchmarks.http_streams --readers 200

One worker, one server process, readers in this process over real sockets. Times are those of the machine's clock, which
all of them share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel import Runtime, Settings, WorkflowHandler
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.local.command_process import process_environment, worker_command

from .resident import resident_bytes
from .shapes_served import Go, Ticking


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurements.

    Attributes:
        readers: Number of simultaneous readers of one run.
        events: Number of events that this run publishes.
        single_runs: Number of runs with one reader each, for the delay of the first event.
        slow_events: Number of events of the run whose readers read nothing.
        slow_bytes: Size of each of those events.
    """

    readers: int
    events: int = 50
    single_runs: int = 100
    slow_events: int = 100
    slow_bytes: int = 20_000


@dataclass(frozen=True)
class Findings:
    """The measured figures: delays in seconds, memory in bytes."""

    readers: int
    firsts: Sequence[float]
    delays: Sequence[float]
    beside_slow: Sequence[float]
    opening: float
    before: int
    reading: int
    slow: int
    missed: int

    def table(self) -> str:
        """The table for a terminal."""
        rows = [
            ("first event, one reader, p50 (target: 20 ms)", _ms(self.firsts, 50)),
            ("first event, one reader, p99", _ms(self.firsts, 99)),
            (f"any event, {self.readers:,} readers, p50", _ms(self.delays, 50)),
            (f"any event, {self.readers:,} readers, p99", _ms(self.delays, 99)),
            ("any event, one reader beside those that take nothing, p50", _ms(self.beside_slow, 50)),
            (f"opening {self.readers:,} streams", f"{self.opening:.1f} s"),
            ("server before", f"{self.before / 1e6:.0f} MB"),
            (f"server with {self.readers:,} readers", f"{self.reading / 1e6:.0f} MB"),
            (f"server with {self.readers:,} readers that take nothing", f"{self.slow / 1e6:.0f} MB"),
            ("events missed or doubled (must be 0)", f"{self.missed}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _ms(seconds: Sequence[float], percent: int) -> str:
    return f"{1000 * statistics.quantiles(seconds, n=100)[percent - 1]:.1f} ms"


class Reader:
    """One connection that reads a run's events, or stops reading."""

    def __init__(self, port: int, run_id: str) -> None:
        self._port, self._run_id = port, run_id
        self.numbers: list[int] = []
        self.delays: list[float] = []

    async def open(self, *, small: bool = False) -> None:
        """Request the events and wait for the response headers; with `small`, use small kernel buffers."""
        connection = socket.socket()
        connection.setblocking(False)
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
        self._in, self._out = await asyncio.open_connection(sock=connection)
        self._out.write(f"GET /events/{self._run_id}?after_sequence=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await self._in.readuntil(b"\r\n\r\n")

    async def read(self) -> None:
        """Read everything until the run ends."""
        number = -1
        while line := await self._in.readline():
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event["type"] == "Tick":
                    self.numbers.append(number)
                    self.delays.append(time.time() - event["value"]["at"])
                else:
                    break

    def pause(self) -> None:
        """Stop reading from the socket."""
        self._out.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Continue reading."""
        self._out.transport.resume_reading()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Disconnect."""
        self._out.transport.abort()


async def measure(runtime: Runtime, port: int, server_pid: int, sizes: Sizes) -> Findings:
    """Take all measurements, one after the other."""
    flow = Ticking(runtime=runtime, timeout=None)

    async def gathered(count: int, *, small: bool = False, **fields: Any) -> tuple[WorkflowHandler, list[Reader]]:
        """A run that waits for its start signal, and this many readers of its events."""
        handler = await asyncio.to_thread(flow.start, waits=True, **fields)
        readers = [Reader(port, handler.run_id) for _ in range(count)]
        for start in range(0, count, 100):
            await asyncio.gather(*(reader.open(small=small) for reader in readers[start : start + 100]))
        return handler, readers

    firsts = []
    for number in range(10 + sizes.single_runs):
        handler, [reader] = await gathered(1, many=1, pause=0)
        await handler.send_event(Go())
        await reader.read()
        reader.close()
        if number >= 10:
            firsts += reader.delays
    before = resident_bytes([server_pid])

    begun_at = time.monotonic()
    handler, readers = await gathered(sizes.readers, many=sizes.events, pause=0.2)
    opening = time.monotonic() - begun_at
    await handler.send_event(Go())
    await asyncio.gather(*(reader.read() for reader in readers))
    reading = resident_bytes([server_pid])
    missed = sum(
        abs(len(reader.numbers) - sizes.events) + len(reader.numbers) - len(set(reader.numbers)) for reader in readers
    )
    for reader in readers:
        reader.close()

    handler, idle = await gathered(sizes.readers, small=True, many=sizes.slow_events, pause=0.2, size=sizes.slow_bytes)
    for reader in idle:
        reader.pause()
    awake = Reader(port, handler.run_id)
    await awake.open()
    await handler.send_event(Go())
    await awake.read()
    slow = resident_bytes([server_pid])
    some = idle[:10]
    for reader in some:
        reader.resume()
    await asyncio.gather(*(reader.read() for reader in some))
    missed += sum(abs(len(reader.numbers) - sizes.slow_events) for reader in (*some, awake))
    for reader in (*idle, awake):
        reader.close()
    delays = [delay for reader in readers for delay in reader.delays]
    # Readers that read nothing fill the kernel buffers first: the second half waits for a signal.
    beside = awake.delays[len(awake.delays) // 2 :]
    return Findings(sizes.readers, firsts, delays, beside, opening, before, reading, slow, missed)


def run(sizes: Sizes) -> Findings:
    """Start a Redis, a worker and a server, measure, and stop them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        Supervisor() as supervisor,
        EmbeddedRedis.temporary(supervisor=supervisor) as redis,
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "wb") as silence,
    ):
        settings = Settings(redis_url=redis.url)
        runtime = Runtime(settings)
        environment = process_environment(settings)
        command = [
            *worker_command(["benchmarks.shapes_served"], pool="asyncio", concurrency=100),
            "--loglevel",
            "ERROR",
        ]
        worker = supervisor.spawn(command, env=environment, output=silence.fileno())
        port_file = Path(folder, "port")
        serve = [sys.executable, "-m", "benchmarks.shapes_served", str(port_file)]
        server = supervisor.spawn(serve, env=environment, output=silence.fileno())
        deadline = time.monotonic() + 60
        while not (
            port_file.exists() and any(each.is_live for each in runtime.portal.call(seen_workers(runtime.store)))
        ):
            if time.monotonic() > deadline or server.poll() is not None or worker.poll() is not None:
                raise RuntimeError("worker or server did not start")
            time.sleep(0.05)
        try:
            return asyncio.run(measure(runtime, int(port_file.read_text()), server.pid, sizes))
        finally:
            for process in (server, worker):
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()
                supervisor.forget(process.pid)
            runtime.close()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    given = parser.parse_args()
    sizes = Sizes(10, events=5, single_runs=5, slow_events=6) if given.quick else Sizes(given.readers)
    print(run(sizes).table())


if __name__ == "__main__":
    main()
