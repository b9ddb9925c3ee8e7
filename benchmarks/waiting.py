"""The cost of very many runs that wait for a human, and whether each of them survives when everything is killed.

    python -m benchmarks.waiting                     # 10,000 runs, a few minutes
    python -m benchmarks.waiting --runs 1000

Starts runs whose only step asks and waits. Kills the workers and Redis with SIGKILL, starts new ones on the append-only
file, answers every run, and checks every result.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel import Runtime, Settings
from umbel.orchestration.connection.redis_client import connect
from umbel.orchestration.engine.worker_directory import seen_workers
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.local.command_process import process_environment, worker_command

from .resident import resident_bytes
from .shapes_waiting import Ask, Verdict

PATIENCE_SECONDS = 600.0
PAGE = 1000


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurement.

    Attributes:
        runs: Number of runs that wait.
        warm_up_runs: Runs asked and answered before the measurement: they fill caches and pools.
        settle_seconds: From the moment the last run waits until memory is measured.
    """

    runs: int
    warm_up_runs: int = 500
    settle_seconds: float = 3.0


#: Only shows that everything works.
QUICK = Sizes(runs=20, warm_up_runs=10, settle_seconds=0.2)


@dataclass(frozen=True)
class Findings:
    """The measured figures.

    Attributes:
        runs: Number of runs that waited.
        before: Memory of all worker processes before the runs, in bytes.
        waiting: The same while all of them waited.
        stored: Bytes of all keys in Redis per waiting run.
        starts: Runs started per second, until the last one waited.
        answers: Runs answered per second, until the last one had ended.
        lost: Runs without the right result.
    """

    runs: int
    before: int
    waiting: int
    stored: float
    starts: float
    answers: float
    lost: int

    def table(self) -> str:
        """The table for a terminal."""
        grown = self.waiting - self.before
        rows = [
            ("runs that waited", f"{self.runs:,}"),
            ("workers, all processes, before", f"{self.before / 1e6:.1f} MB"),
            ("workers, all processes, while all wait", f"{self.waiting / 1e6:.1f} MB"),
            ("growth (target: below 5 MB)", f"{grown / 1e6:+.1f} MB"),
            ("Redis per waiting run", f"{self.stored:,.0f} bytes"),
            ("started and waiting", f"{self.starts:,.0f} runs/s"),
            ("answered and ended, after the restart", f"{self.answers:,.0f} runs/s"),
            ("lost (must be 0)", f"{self.lost}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


class Fleet:
    """The workers, which can be killed and replaced."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        count: int,
        pool: str,
        concurrency: int | None,
        target: str = "benchmarks.shapes_waiting",
    ) -> None:
        self._settings, self._supervisor, self._count = settings, supervisor, count
        self._command = worker_command([target], pool=pool, concurrency=concurrency)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, runtime: Runtime) -> None:
        """Start all workers and wait until they serve."""
        self._processes = [self._spawned() for _ in range(self._count)]
        pids = {process.pid for process in self._processes}

        def all_serve() -> bool:
            ended = [process.returncode for process in self._processes if process.poll() is not None]
            if ended:
                raise RuntimeError(f"a worker ended at its start, with exit code {ended[0]}")
            return pids <= {each.pid for each in runtime.portal.call(seen_workers(runtime.store)) if each.is_live}

        wait_until(all_serve, "workers")

    def _spawned(self) -> subprocess.Popen[bytes]:
        with open(os.devnull, "wb") as silence:
            command = [*self._command, "--loglevel", "ERROR"]
            return self._supervisor.spawn(command, env=process_environment(self._settings), output=silence.fileno())

    def kill(self) -> None:
        """Send SIGKILL to every process of every worker."""
        while self._processes:
            self._kill(self._processes.pop())

    def replace_one(self) -> None:
        """Send SIGKILL to every process of one worker and start another one."""
        self._kill(self._processes.pop(0))
        self._processes.append(self._spawned())

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._supervisor.forget(process.pid)

    def resident(self) -> int:
        """Resident memory of all worker processes, in bytes."""
        return resident_bytes(process.pid for process in self._processes)


def wait_until(condition: Callable[[], bool], what: str, pause_seconds: float = 0.1) -> None:
    """Poll until the condition holds.

    Raises:
        TimeoutError: It took too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting for: {what}")
        time.sleep(pause_seconds)


@contextmanager
def connected(settings: Settings) -> Iterator[Runtime]:
    """A new client for each part: it knows nothing but the runs' ids."""
    runtime = Runtime(settings)
    try:
        yield runtime
    finally:
        runtime.close()


def pages(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """A thousand runs at a time."""
    for start in range(0, len(run_ids), PAGE):
        yield run_ids[start : start + PAGE]


def waiting(runtime: Runtime, run_ids: Sequence[str]) -> int:
    """The number of these runs that wait for an event."""
    found = 0
    for page in pages(run_ids):
        asked = (("HLEN", runtime.store.locate(run_id)["waiters"]) for run_id in page)
        found += sum(1 for waiters in runtime.portal.call(runtime.store.batch("count waiters", *asked)) if waiters)
    return found


def ask(runtime: Runtime, runs: int) -> list[str]:
    """Start runs, and return their ids once all of them wait."""
    workflow = Ask(timeout=None, runtime=runtime)
    run_ids = [workflow.start(number=number).run_id for number in range(runs)]
    wait_until(lambda: waiting(runtime, run_ids) == runs, "all runs to wait")
    return run_ids


def answer(runtime: Runtime, run_ids: Sequence[str]) -> int:
    """Answer every run; returns how many did not end with the right result."""
    for number, run_id in enumerate(run_ids):
        runtime.attach(run_id).send_event(Verdict(points=number * 2))
    wrong = 0
    for number, run_id in enumerate(run_ids):
        try:
            wrong += runtime.attach(run_id).result(PATIENCE_SECONDS) != [number, number * 2]
        except Exception as error:
            print(f"{run_id}: {type(error).__name__}: {error}", file=sys.stderr)
            wrong += 1
    return wrong


def stored_bytes(client: Any) -> int:
    """Memory that Redis needs for all keys, according to MEMORY USAGE."""
    keys = list(client.scan_iter(count=PAGE))
    used = 0
    for page in pages(keys):
        pipeline = client.pipeline(transaction=False)
        for key in page:
            pipeline.memory_usage(key, samples=0)
        used += sum(each or 0 for each in pipeline.execute())
    return used


def measured(sizes: Sizes, workers: int, pool: str, concurrency: int | None, folder: Path) -> Findings:
    """Ask, kill everything, answer."""
    runs = sizes.runs
    with Supervisor() as supervisor:
        with EmbeddedRedis.in_folder(folder, supervisor=supervisor) as server:
            settings = Settings.from_environment(redis_url=server.url)
            fleet = Fleet(settings, supervisor, workers, pool, concurrency)
            with connected(settings) as runtime:
                fleet.start(runtime)
                tell(f"warming up with {sizes.warm_up_runs:,} runs")
                assert answer(runtime, ask(runtime, sizes.warm_up_runs)) == 0
                time.sleep(sizes.settle_seconds)
                before, stored_before = fleet.resident(), stored_bytes(connect(server.url))
                tell(f"starting {runs:,} runs")
                began = time.perf_counter()
                run_ids = ask(runtime, runs)
                starts = runs / (time.perf_counter() - began)
                time.sleep(sizes.settle_seconds)
                resident, stored = fleet.resident(), stored_bytes(connect(server.url))
            tell("killing workers and Redis")
            fleet.kill()
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
        with EmbeddedRedis.in_folder(folder, supervisor=supervisor) as again, connected(settings) as runtime:
            assert again.url == settings.redis_url
            fleet.start(runtime)
            tell(f"answering {runs:,} runs")
            began = time.perf_counter()
            lost = answer(runtime, run_ids)
            answers = runs / (time.perf_counter() - began)
            fleet.kill()
    return Findings(runs, before, resident, (stored - stored_before) / runs, starts, answers, lost)


def tell(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.waiting", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="runs that wait (default 10,000)")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, only to see that everything works")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="workers (default 2)")
    parser.add_argument("--pool", default="asyncio", help="their Celery pool (default asyncio)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="of each (default the pool's)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="umbel-waiting-") as folder:
        sizes = QUICK if options.quick else Sizes(options.runs)
        found = measured(sizes, options.processes, options.pool, options.concurrency, Path(folder))
    print(found.table())
    sys.exit(1 if found.lost else 0)


if __name__ == "__main__":
    main()
