"""Very many sessions whose runs many callers start at once: does each answer belong to its question?

    python -m benchmarks.sessions                    # 1,000 sessions of 20 runs, 50 callers, 2 workers
        python -m benchmarks.sessions --kill-seconds 10  # kills and replaces a worker every 10 seconds
    python -m benchmarks.sessions --quick

All runs of all sessions are started in random order. A run that finds another one of its session waits for its turn.
Each caller waits for the answer before it starts its next run.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from umbel import Runtime, Session, Settings, WorkflowHandler
from umbel.orchestration.connection.redis_client import connect
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor

from .shapes_sessions import Turn
from .waiting import PATIENCE_SECONDS, Fleet, connected, tell


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurement.

    Attributes:
        sessions: Number of sessions.
        runs: Number of runs in each session.
        callers: Number of callers that start runs at the same time.
    """

    sessions: int
    runs: int
    callers: int


#: Only shows that everything works.
QUICK = Sizes(sessions=20, runs=5, callers=10)


@dataclass(frozen=True)
class Findings:
    """The measured figures.

    Attributes:
        runs: Number of runs that ended.
        astray: Answers that belong to another question, and runs without an answer.
        out_of_turn: Sessions whose runs did not begin in the order of their starts.
        seconds: From the first start to the last end.
        stored: Bytes in Redis per idle session, without its runs.
        kills: Number of workers that were killed.
    """

    runs: int
    astray: int
    out_of_turn: int
    seconds: float
    stored: float
    kills: int

    def table(self) -> str:
        """The table for a terminal."""
        rows = [
            ("runs", f"{self.runs:,}"),
            ("runs per second", f"{self.runs / self.seconds:,.0f}"),
            ("workers killed", f"{self.kills}"),
            ("answers astray (must be 0)", f"{self.astray}"),
            ("sessions out of turn (must be 0)", f"{self.out_of_turn}"),
            ("Redis per idle session (target: below 2,000)", f"{self.stored:,.0f} bytes"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


class Callers:
    """All callers that start runs, and their observations."""

    def __init__(self, runtime: Runtime, sizes: Sizes) -> None:
        self.astray = 0
        self._turn = Turn(timeout=None, runtime=runtime)
        self._sessions = [Session(f"session {number}", runtime) for number in range(sizes.sessions)]
        self._starting = [threading.Lock() for _ in self._sessions]
        #: For each session the ids of its runs in the order of their starts.
        self.started: list[list[str]] = [[] for _ in self._sessions]

    def ask(self, question: tuple[int, int]) -> None:
        """Ask in a session and check the answer."""
        place, number = question
        handler = self._start(place, number)
        try:
            right = handler.result(PATIENCE_SECONDS) == number
        except Exception as error:
            print(f"{handler.run_id}: {type(error).__name__}: {error}", file=sys.stderr)
            right = False
        if not right:
            self.astray += 1

    def _start(self, place: int, number: int) -> WorkflowHandler:
        with self._starting[place]:  # so that the order of the starts is known
            handler = self._sessions[place].run(self._turn, number=number)
            self.started[place].append(handler.run_id)
        return handler

    def out_of_turn(self) -> int:
        """The number of sessions that did not begin their runs in the order of their starts."""
        pairs = zip(self._sessions, self.started, strict=True)
        return sum([run.run_id for run in session.runs(len(ids))] != ids[::-1] for session, ids in pairs)


def stored_bytes(runtime: Runtime, client: Any, sessions: int) -> float:
    """Redis memory for the keys of a session, and for its share of the lists of sessions."""
    kinds = ("handler", "line", "session", "session_runs", "state")
    patterns = [*(f"umbel:*:{kind}:*" for kind in kinds), "umbel:*:sessions", "umbel:*:lines"]
    keys = [key for pattern in patterns for key in client.scan_iter(pattern, count=1000) if b":lock" not in key]
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys if b":answer:" not in key) / sessions


def measured(sizes: Sizes, workers: int, kill_seconds: float | None, seed: int) -> Findings:
    """Start all runs of all sessions and check every answer."""
    questions = [(place, number) for place in range(sizes.sessions) for number in range(sizes.runs)]
    random.Random(seed).shuffle(questions)
    kills = 0
    with Supervisor() as supervisor, EmbeddedRedis.temporary(supervisor=supervisor) as server:
        settings = Settings.from_environment(redis_url=server.url)
        fleet = Fleet(settings, supervisor, workers, "asyncio", None, "benchmarks.shapes_sessions")
        with connected(settings) as runtime, ThreadPoolExecutor(sizes.callers) as pool:
            fleet.start(runtime)
            callers, began = Callers(runtime, sizes), time.perf_counter()
            asked = [pool.submit(callers.ask, question) for question in questions]
            over = threading.Event()
            asked[-1].add_done_callback(lambda _: over.set())
            while kill_seconds is not None and not over.wait(kill_seconds):
                fleet.replace_one()
                kills += 1
                tell(f"killed a worker; {sum(each.done() for each in asked):,} of {len(asked):,} runs have ended")
            for each in asked:
                each.result()
            seconds = time.perf_counter() - began
            stored = stored_bytes(runtime, connect(server.url), sizes.sessions)
            out_of_turn = callers.out_of_turn()
            fleet.kill()
    return Findings(len(questions), callers.astray, out_of_turn, seconds, stored, kills)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sessions", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1_000, metavar="N", help="how many (default 1,000)")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each (default 20)")
    parser.add_argument("--callers", type=int, default=50, metavar="N", help="at the same time (default 50)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="workers (default 2)")
    parser.add_argument("--kill-seconds", type=float, metavar="S", help="kill and replace a worker so often")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the order of the starts (default 1)")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, only to see that everything works")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes(options.sessions, options.runs, options.callers)
    found = measured(sizes, options.processes, options.kill_seconds, options.seed)
    print(found.table())
    sys.exit(1 if found.astray or found.out_of_turn or found.stored >= 2_000 else 0)


if __name__ == "__main__":
    main()
